"""Records looked up for calls: whatever is asked for during one round trip goes with the next.

A worker that meets many keys it does not remember would otherwise spend more on asking for their records,
one by one, than on the calls themselves, and need a connection for each that it asks for at once.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from metering.clients import Client, ClusterClient, wire_to
from metering.cluster import Address
from metering.names import digest_name, record_name
from metering.projection import Projection
from metering.wire import LOST, Command, Wire
from policies.record import KeyRecord

_Question = tuple[Command, "asyncio.Future[bytes | None]"]
_CLOSED = "closed before there was an answer"
ASKED_TOGETHER = 500  # questions in one round trip: Redis answers calls between two of them


class Lookups(Projection):
    """A projection whose records are found in rounds, of which each server has one under way at a time.

    On a cluster a server that is away holds up its own keys only.
    """

    def __init__(self, redis: Client) -> None:
        super().__init__(redis)
        self._topology = redis.topology if isinstance(redis, ClusterClient) else None
        self._lanes: dict[Address | None, _Lane] = {}

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the record of the key that a credential's digest belongs to, or belonged to."""
        key_id = await self._ask(("GET", digest_name(digest)))
        return None if key_id is None else await self.fetch(key_id.decode())

    async def fetch(self, key_id: str) -> KeyRecord | None:
        """Return a key's record."""
        data = await self._ask(("HGET", record_name(key_id), "data"))
        return None if data is None else KeyRecord.from_json(data)

    async def close(self) -> None:
        """End what is being asked, and drop the connections."""
        for lane in self._lanes.values():
            await lane.close()

    def _ask(self, command: tuple[str, ...]) -> asyncio.Future[bytes | None]:
        # A server that is not known yet, or no longer, is found by the wire.
        address = None if self._topology is None else self._topology.find(command[1])
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = _Lane(wire_to(self._redis))
        return lane.ask(command)


class _Lane:
    """Rounds of questions to one server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: list[_Question] = []
        self._rounds: asyncio.Task[None] | None = None

    def ask(self, command: Command) -> asyncio.Future[bytes | None]:
        """Ask with the next round; what the answer raises is redis-py's RedisError or OSError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        self._waiting.append((command, answer))
        if self._rounds is None:
            self._rounds = loop.create_task(self._run(), name="lookups")
        return answer

    async def close(self) -> None:
        """Answer whoever waits that the connection is closed, and close it."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait({self._rounds})
        for _, answer in self._waiting:
            _give(answer, RedisConnectionError(_CLOSED))
        await self._wire.close()

    async def _run(self) -> None:
        asked: list[_Question] = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:ASKED_TOGETHER], self._waiting[ASKED_TOGETHER:]
                try:
                    replies = await self._wire.exchange([command for command, _ in asked])
                except LOST as error:
                    replies = [error] * len(asked)
                for (_, answer), reply in zip(asked, replies, strict=True):
                    _give(answer, reply)
        finally:
            self._rounds = None
            for _, answer in asked:
                _give(answer, RedisConnectionError(_CLOSED))


def _give(answer: asyncio.Future[bytes | None], reply: Any) -> None:
    if answer.done():
        return  # whoever asked has stopped waiting
    if isinstance(reply, hiredis.ReplyError):
        answer.set_exception(RedisError(str(reply)))
    elif isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)
