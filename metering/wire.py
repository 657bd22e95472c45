"""A connection to one Redis server on which batches of commands are written and their replies read, nothing
in between.

The client library opens the connection (TLS, authentication, Sentinel); after that its transport is ours. Its
own way of sending makes a task and a timer for every write, which at one batch after another would cost more
than the counting. Nothing is ever sent again here: whoever sends knows whether that is safe.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from metering.commands import Argument, Command, evalsha, is_unknown_script, key_of, load
from metering.link import Answered, Link
from metering.scripts import Script

LOST = (RedisError, OSError)  # what a broken connection or an unfit server raises
DEFAULT_TIMEOUT_S = 1.0
WAIT_SHARE = 0.8  # of the time limit, for replicas
SLOTS = 16_384  # of a cluster; a server that stands alone has them all
_PLAIN_REPLIES = ("HELLO", "2")


def closed_meanwhile(error: RuntimeError) -> RedisConnectionError:
    """Return as one of `LOST` what uvloop raises when a transport was closed just before it is written to."""
    return RedisConnectionError(f"the connection to Redis was closed meanwhile: {error}")


class Wire(ABC):
    """A way to Redis for one user at a time. Replies are bytes, integers, lists, None, or errors."""

    one_shard: ClassVar[bool] = False  # whether the keys of one command have to be of one shard

    @abstractmethod
    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies, in their order; connects first when there is no connection.

        Raises one of `LOST` when nothing was answered. It is unknown then which commands were run.
        """

    @abstractmethod
    def ask(self, commands: Sequence[Command], answered: Answered) -> bool:
        """Do as `exchange` without a task, where the way is open: `answered` is called later, from the loop.

        Returns False, with nothing sent, where it takes more than that.
        """

    @abstractmethod
    async def holders(self) -> Sequence[Holder]:
        """Return each server that holds keys, for what has to be asked of all of them; raises one of `LOST`.

        The ways to them end with this one.
        """

    @abstractmethod
    def beside(self, address: str, timeout_s: float) -> Wire | None:
        """Return a way to a server at another address that is opened as these are; None when that is not
        known."""

    @abstractmethod
    async def close(self) -> None:
        """Drop the connections; the next exchange makes new ones."""

    async def run(
        self, script: Script, calls: Sequence[tuple[Sequence[Argument], Sequence[Argument]]]
    ) -> list[Any]:
        """Run a script once per (keys, arguments), loading it when Redis does not know it.

        Raises one of `LOST`, an error reply included. The script must bear being run again, as all of ours
        do.
        """
        if not calls:
            return []
        commands = [evalsha(script, keys, arguments) for keys, arguments in calls]
        replies = await self.exchange(commands)
        if any(map(is_unknown_script, replies)):
            await self.exchange([load(script)])
            replies = await self.exchange(commands)
        return refuse_errors(replies)


@dataclass(frozen=True, slots=True)
class Holder:
    """A server that holds keys: its address, its slots (first and last of each range), and the way to it."""

    address: str
    slots: tuple[tuple[int, int], ...]
    wire: Wire


class ServerWire(Wire):
    """A connection to one server."""

    def __init__(self, pool: ConnectionPool, timeout_s: float | None = None, *, replicas: int = 0) -> None:
        """Take the address and credentials of `pool`, and its time limit unless `timeout_s` is given.

        With `replicas` what is written counts as answered when so many replicas have it.
        """
        self._pool = pool
        self._replicas = replicas
        self._timeout_s: float = (
            timeout_s or self._pool.connection_kwargs.get("socket_timeout") or DEFAULT_TIMEOUT_S
        )
        self._connection: AbstractConnection | None = None
        self._link: Link | None = None

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies; connects first when there is no connection.

        Raises one of `LOST` when the connection is lost or the time is up. It is unknown then which commands
        were run.
        """
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        try:
            link = self._link
            if link is None or link.is_lost:
                await self.close()
                link = await self._open()
            self._send(link, commands, partial(_resolve, answer))
            return await answer
        except RuntimeError as error:
            await self.close()
            raise closed_meanwhile(error) from error
        except BaseException:
            # Whatever ended the wait, replies may still be under way: they must not meet another question.
            await self.close()
            raise

    def ask(self, commands: Sequence[Command], answered: Answered) -> bool:
        """Send commands at once, unless the connection has to be made first."""
        link = self._link
        if link is None or link.is_lost:
            return False
        try:
            self._send(link, commands, answered)
        except RuntimeError:  # it was closed just now, and nothing was sent
            link.is_lost = True
            return False
        return True

    def _send(self, link: Link, commands: Sequence[Command], answered: Answered) -> None:
        if self._replicas and (waiting := self._wait_for_replicas(commands)):
            commands = (*commands, *waiting)
            answered = partial(self._check_replicas, answered)
        link.ask(commands, answered)

    async def holders(self) -> Sequence[Holder]:
        """Return the one server there is, under the address that it is connected to."""
        if self._link is None or self._link.is_lost:
            refuse_errors(await self.exchange([("PING",)]))
        connection = self._connection
        if isinstance(connection, Connection):
            address = f"{connection.host}:{connection.port}"
        else:
            assert isinstance(connection, UnixDomainSocketConnection)
            # The directory may be another one after a restart: sockets of long paths lie in temporary ones.
            address = f"unix:{connection.path.rpartition('/')[2]}"
        return (Holder(address, ((0, SLOTS - 1),), self),)

    def beside(self, address: str, timeout_s: float) -> Wire | None:
        """Return a way to another server with the same credentials; None for one on a socket of this host."""
        host, _, port = address.rpartition(":")
        over_tls = issubclass(self._pool.connection_class, SSLConnection)
        if not port.isdecimal() or not issubclass(self._pool.connection_class, Connection):
            return None
        options = {
            name: value for name, value in self._pool.connection_kwargs.items() if name != "connection_pool"
        }
        options |= {"host": host, "port": int(port)}
        kind = SSLConnection if over_tls else Connection
        return ServerWire(ConnectionPool(connection_class=kind, **options), timeout_s)

    async def close(self) -> None:
        """Drop the connection; the next exchange makes a new one."""
        connection, self._connection, self._link = self._connection, None, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _wait_for_replicas(self, commands: Sequence[Command]) -> Sequence[Command]:
        # Replicas follow the order of writes, and WAIT asks for those of its own connection: a write of ours
        # makes it ask for all that came before, on connections that were lost too.
        key = next(filter(None, map(key_of, commands)), None)
        if key is None:
            return ()
        tag = key.partition("}")[0] + "}:" if "{" in key else "tg:"
        milliseconds = max(1, int(self._timeout_s * WAIT_SHARE * 1000))
        return (("SET", f"{tag}replicated", 1), ("WAIT", self._replicas, milliseconds))

    def _check_replicas(self, answered: Answered, replies: list[Any] | Exception) -> None:
        if isinstance(replies, Exception):
            answered(replies)
            return
        *answers, marked, reached = replies
        if isinstance(marked, hiredis.ReplyError) and not str(marked).startswith(("MOVED ", "ASK ")):
            # Nothing of this connection was written: WAIT has asked for nothing.
            self._refuse(answered, str(marked))
        elif isinstance(reached, int) and reached < self._replicas:
            self._refuse(answered, f"{reached} of {self._replicas} replicas have what was written")
        else:
            answered(answers)

    def _refuse(self, answered: Answered, why: str) -> None:
        if self._link is not None:
            self._link.is_lost = True  # another server may be the master by now
        answered(RedisError(why))

    async def _open(self) -> Link:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        connection.retry = Retry(NoBackoff(), 0)
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                writer = connection._writer
                if writer is None:
                    raise RedisConnectionError("the connection was closed while it was made")
                link = Link(writer.transport, self._timeout_s)
                writer.transport.set_protocol(link)
                # Whatever the client is set to, replies here come in one form: hashes are flat lists.
                answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
                link.ask([_PLAIN_REPLIES], partial(_resolve, answer))
                refuse_errors(await answer)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # The library's connection stays referenced: its end would close the transport.
        self._connection, self._link = connection, link
        return link


def _resolve(answer: asyncio.Future[list[Any]], replies: list[Any] | Exception) -> None:
    if answer.done():  # nobody waits any more
        return
    if isinstance(replies, Exception):
        answer.set_exception(replies)
    else:
        answer.set_result(replies)


def refuse_errors(replies: list[Any]) -> list[Any]:
    """Return replies, or raise RedisError when one of them is an error."""
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise RedisError(str(reply))
    return replies
