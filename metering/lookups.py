"""Records looked up for calls: whatever is asked for during one round trip goes with the next.

A worker that meets many keys it does not remember would otherwise spend more on asking for their records,
one by one, than on the calls themselves, and need a connection for each that it asks for at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from metering.clients import Client, ClusterClient, wire_to
from metering.cluster import Address
from metering.commands import Command
from metering.names import READY, digest_name, record_name
from metering.wire import Wire
from policies.record import KeyRecord


class EmptiedError(Exception):
    """Redis has no record of any key: it was emptied, and says nothing of whether one exists."""


Found = KeyRecord | None | Exception  # a record, none for a key that does not exist, or why that is not known
_Told = Callable[[Any], None]  # is given a reply, or the exception that took its place
_Question = tuple[Command, _Told]
_CLOSED = "closed before there was an answer"
LOOK_EVERY_S = 0.1  # whether a lane that nobody asks any more may end
ASKED_TOGETHER = 500  # questions in one round trip: Redis answers calls between two of them


class Lookups:
    """Finds records in rounds, of which each server has one under way at a time.

    On a cluster a server that is away holds up its own keys only.
    """

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._topology = redis.topology if isinstance(redis, ClusterClient) else None
        self._lanes: dict[Address | None, _Lane] = {}
        self._version = 0  # of the topology that the lanes are of
        self._leaving: dict[_Lane, asyncio.Task[None]] = {}  # of servers that have no keys any more

    def seek(self, digest: str, done: Callable[[Found], None]) -> None:
        """Look for the record that a digest leads to, without a task of its own; `done` gets it later.

        An exception in its place is redis-py's RedisError, OSError, EmptiedError, or why it cannot be read.
        """
        self._ask(("GET", digest_name(digest)), partial(self._on_key_id, done))

    async def fetch(self, key_id: str) -> KeyRecord | None:
        """Return a key's record."""
        data = await self._answer(("HGET", record_name(key_id), "data"))
        return None if data is None else KeyRecord.from_json(data)

    async def close(self) -> None:
        """End what is being asked, and drop the connections."""
        for leaving in self._leaving.values():
            leaving.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        for lane in (*self._lanes.values(), *self._leaving):
            await lane.close()

    def _on_key_id(self, done: Callable[[Found], None], reply: Any) -> None:
        if isinstance(reply, bytes):
            self._ask(("HGET", record_name(reply.decode()), "data"), partial(self._on_record, done))
        else:
            self._on_nothing(done, reply)

    def _on_record(self, done: Callable[[Found], None], reply: Any) -> None:
        if not isinstance(reply, bytes):
            self._on_nothing(done, reply)
            return
        found: Found
        try:
            found = KeyRecord.from_json(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked waits for an answer
            found = error
        done(found)

    def _on_nothing(self, done: Callable[[Found], None], reply: Any) -> None:
        if reply is None:
            self._ask(("EXISTS", READY), partial(_on_filled, done))
        else:
            done(reply)

    def _answer(self, command: tuple[str, ...]) -> asyncio.Future[bytes | None]:
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._ask(command, partial(_settle, answer))
        return answer

    def _ask(self, command: tuple[str, ...], told: _Told) -> None:
        # A server that is not known yet, or no longer, is found by the wire.
        address = None
        if self._topology is not None:
            address = self._topology.find(command[1])
            if self._version != self._topology.version:
                self._version = self._topology.version
                self._forget(self._topology.servers)
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = _Lane(wire_to(self._redis))
        lane.ask(command, told)

    def _forget(self, servers: Sequence[Address]) -> None:
        """End the lanes of servers that are none any more, once who asked there is answered."""
        for address in [each for each in self._lanes if each is not None and each not in servers]:
            lane = self._lanes.pop(address)
            self._leaving[lane] = asyncio.get_running_loop().create_task(self._leave(lane))

    async def _leave(self, lane: _Lane) -> None:
        await lane.finish()
        del self._leaving[lane]


class _Lane:
    """Rounds of questions to one server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: list[_Question] = []
        self._asked: list[_Question] | None = None  # in the round that is under way
        self._is_due = False  # a round is about to begin
        self._task: asyncio.Task[None] | None = None  # of a round for which the connection is made first
        self._closed = False

    def ask(self, command: Command, told: _Told) -> None:
        """Ask with the next round; an exception in the place of a reply is redis-py's RedisError or
        OSError."""
        if self._closed:
            asyncio.get_running_loop().call_soon(told, RedisConnectionError(_CLOSED))
            return
        self._waiting.append((command, told))
        self._rouse()

    async def finish(self) -> None:
        """Wait until all that were asked are answered, and close the connection; nobody asks any more."""
        while self._asked or self._waiting:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(LOOK_EVERY_S)
        await self.close()

    async def close(self) -> None:
        """Answer whoever waits that the connection is closed, and close it."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        waiting = (self._asked or []) + self._waiting
        self._asked, self._waiting = None, []
        _give(waiting, [RedisConnectionError(_CLOSED)] * len(waiting))
        await self._wire.close()

    def _rouse(self) -> None:
        """Begin a round soon, with all that the loop still has at hand, unless one is under way."""
        if self._asked is None and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self._is_due = False
        if not self._waiting:
            return
        asked, self._waiting = self._waiting[:ASKED_TOGETHER], self._waiting[ASKED_TOGETHER:]
        self._asked = asked
        commands = [command for command, _ in asked]
        if not self._wire.ask(commands, partial(self._on_replies, asked)):
            self._task = asyncio.get_running_loop().create_task(self._exchange(asked), name="lookups")

    async def _exchange(self, asked: list[_Question]) -> None:
        replies: list[Any] | Exception
        try:
            replies = await self._wire.exchange([command for command, _ in asked])
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked waits for an answer
            replies = error
        self._on_replies(asked, replies)

    def _on_replies(self, asked: list[_Question], replies: list[Any] | Exception) -> None:
        if self._asked is not asked:
            return  # closed meanwhile
        self._asked = None
        _give(asked, [replies] * len(asked) if isinstance(replies, Exception) else replies)
        if self._waiting:
            self._rouse()


def _give(asked: list[_Question], replies: list[Any]) -> None:
    for (_, told), reply in zip(asked, replies, strict=True):
        try:
            told(RedisError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply)
        except Exception as error:  # noqa: BLE001 - one caller's mistake must not cost the others their answer
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an answer of the store was not taken", "exception": error}
            )


def _on_filled(done: Callable[[Found], None], reply: Any) -> None:
    if isinstance(reply, Exception):
        done(reply)
    else:
        done(None if reply else EmptiedError())


def _settle(answer: asyncio.Future[Any], reply: Any) -> None:
    if answer.done():
        return  # whoever asked has stopped waiting
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)
