"""Records looked up for calls: whatever is asked for during one round trip goes with the next.

A worker that meets many keys it does not remember would otherwise spend more on asking for their records,
one by one, than on the calls themselves, and need a connection for each that it asks for at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from metering.clients import Client, ClusterClient, wire_to
from metering.cluster import Address
from metering.commands import Command
from metering.names import READY, digest_name, record_name
from metering.wire import LOST, Wire
from policies.record import KeyRecord


class EmptiedError(Exception):
    """Redis has no record of any key: it was emptied, and says nothing of whether one exists."""


Found = KeyRecord | None | Exception  # a record, none for a key that does not exist, or why that is not known
_Told = Callable[[Any], None]  # is given a reply, or the exception that took its place
_CLOSED = "closed before there was an answer"
ASKED_TOGETHER = 500  # questions in one round trip: Redis answers calls between two of them


class Lookups:
    """Finds records in rounds, of which each server has one under way at a time.

    On a cluster a server that is away holds up its own keys only.
    """

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._topology = redis.topology if isinstance(redis, ClusterClient) else None
        self._lanes: dict[Address | None, _Lane] = {}

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
        for lane in self._lanes.values():
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
        address = None if self._topology is None else self._topology.find(command[1])
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = _Lane(wire_to(self._redis))
        lane.ask(command, told)


class _Lane:
    """Rounds of questions to one server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: list[tuple[Command, _Told]] = []
        self._rounds: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, command: Command, told: _Told) -> None:
        """Ask with the next round; an exception in the place of a reply is redis-py's RedisError or
        OSError."""
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(told, RedisConnectionError(_CLOSED))
            return
        self._waiting.append((command, told))
        if self._rounds is None:
            self._rounds = loop.create_task(self._run(), name="lookups")

    async def close(self) -> None:
        """Answer whoever waits that the connection is closed, and close it."""
        self._closed = True
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait({self._rounds})
        waiting, self._waiting = self._waiting, []
        _give(waiting, [RedisConnectionError(_CLOSED)] * len(waiting))
        await self._wire.close()

    async def _run(self) -> None:
        asked: list[tuple[Command, _Told]] = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:ASKED_TOGETHER], self._waiting[ASKED_TOGETHER:]
                try:
                    replies = await self._wire.exchange([command for command, _ in asked])
                except LOST as error:
                    replies = [error] * len(asked)
                answered, asked = asked, []
                _give(answered, replies)
        finally:
            self._rounds = None
            _give(asked, [RedisConnectionError(_CLOSED)] * len(asked))


def _give(asked: list[tuple[Command, _Told]], replies: list[Any]) -> None:
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
