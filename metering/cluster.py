"""A Redis Cluster seen as one way to Redis: every command goes to the server that has its key.

Which server has which slot is asked when it is first needed, and again when a server says that a slot has
moved or cannot be reached. A command that a server sends elsewhere was not run, so it is sent there at once;
whether one that was not answered was run is unknown, and left to whoever asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from metering.commands import Command, key_of
from metering.link import Answered
from metering.wire import LOST, Holder, ServerWire, Wire, refuse_errors

Address = tuple[str, int]
OTHERS_S = 0.25  # for what others say of a cluster that one is cut off from
MAX_HOPS = 5  # that a command is sent on, until its slot is where it was said to be


class Topology:
    """Which server has which slot, as last heard. Shared by all that are connected to one cluster."""

    def __init__(self, seeds: Sequence[Address], pool_of: Callable[[Address], ConnectionPool]) -> None:
        """Begin at the servers `seeds`; `pool_of` knows how one is connected to."""
        self.pool_of = pool_of
        self._seeds = list(seeds)
        self._ranges: list[tuple[int, int, Address]] = []  # first slot, last slot, who has them
        self._refreshing: asyncio.Task[None] | None = None
        self._last: Address | None = None  # who answered the last time
        self.is_stale = True
        self.version = 0  # grows whenever something turned out to have moved

    @property
    def servers(self) -> list[Address]:
        """Return the servers that hold keys, in the order of their first slot."""
        return list(dict.fromkeys(address for _, _, address in self._ranges))

    def slots_of(self, address: Address) -> tuple[tuple[int, int], ...]:
        """Return the first and the last slot of each range that a server has."""
        return tuple((first, last) for first, last, owner in self._ranges if owner == address)

    def find(self, key: str) -> Address | None:
        """Return who has a key, or None when nobody has its slot."""
        slot = key_slot(key.encode())
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return address
        return None

    def server_of(self, key: str) -> Address:
        """Return who has a key; raises ConnectionError when nobody has its slot."""
        address = self.find(key)
        if address is None:
            self.is_stale = True  # the cluster may have been in the making when it was asked
            raise RedisConnectionError(f"no server of the cluster has the slot of {key}")
        return address

    async def look(self) -> None:
        """Hear of the cluster when nothing is known of it; otherwise, when that may be old, hear in passing.

        Whoever asks servers that are well need not wait until it has turned out who else is not.
        """
        if not self._ranges:
            await self.refresh()
        elif self.is_stale:
            self._begin()

    async def refresh(self) -> None:
        """Ask the first server that answers; whoever comes meanwhile waits for the same answer.

        Raises ConnectionError when none answers.
        """
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # whoever waited has it

    async def _refresh(self) -> None:
        errors = []
        known = [*self.servers, *self._seeds]
        left = list(dict.fromkeys(known if self._last is None else [self._last, *known]))
        while left:
            address = left.pop(0)
            try:
                found = await self._ask(address)
            except LOST as error:
                errors.append(f"{address[0]}:{address[1]}: {error}")
                continue
            if found.ranges:
                self._take(found if found.is_well else await self._better(found, left))
                return
            errors.append(f"{address[0]}:{address[1]}: no slots are given out")
        raise RedisConnectionError("no server of the cluster answers: " + "; ".join(errors))

    async def _better(self, found: _Told, others: Sequence[Address]) -> _Told:
        """Return what a server says that is part of the cluster, where there is one.

        A master that the others do not reach goes on to name itself after a replica has taken its place.
        """
        told = await asyncio.gather(*(self._ask(each, OTHERS_S) for each in others), return_exceptions=True)
        for each in told:
            if isinstance(each, _Told) and each.is_well and each.ranges:
                return each
        return found

    async def _ask(self, address: Address, timeout_s: float | None = None) -> _Told:
        wire = ServerWire(self.pool_of(address), timeout_s)
        try:
            slots, info = await wire.exchange([("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")])
        finally:
            await wire.close()
        refuse_errors([slots])
        # A server that does not know its own name sends an empty one.
        ranges = sorted(
            (first, last, ((host or b"").decode() or address[0], port))
            for first, last, (host, port, *_), *_ in slots
        )
        return _Told(address, ranges, not (isinstance(info, bytes) and b"cluster_state:fail" in info))

    def _take(self, told: _Told) -> None:
        self._last = told.address
        self.version += told.ranges != self._ranges
        self._ranges, self.is_stale = told.ranges, False


@dataclass(frozen=True, slots=True)
class _Told:
    """What a server says of the cluster, and whether it is part of one that works."""

    address: Address
    ranges: list[tuple[int, int, Address]]
    is_well: bool


class ClusterWire(Wire):
    """Connections to the servers of a cluster. What a server did not answer is an error among the replies."""

    one_shard = True

    def __init__(self, topology: Topology, timeout_s: float | None = None, *, replicas: int = 0) -> None:
        """Take the servers of `topology`; the rest is as for one server, and holds for each of them."""
        self._topology = topology
        self._timeout_s = timeout_s
        self._replicas = replicas
        self._wires: dict[Address | None, ServerWire] = {}
        self._following: set[asyncio.Task[None]] = set()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send each command to the server of its key, or to all when it has none, and return the replies.

        Raises ConnectionError when the cluster cannot be reached at all.
        """
        await self._topology.look()
        replies: list[Any] = [None] * len(commands)
        await self._send(commands, range(len(commands)), replies)
        await self._send_on(commands, replies)
        return replies

    def ask(self, commands: Sequence[Command], answered: Answered) -> bool:
        """Send commands at once that are all for one server to which a connection stands."""
        topology = self._topology
        addresses = {None if (key := key_of(command)) is None else topology.find(key) for command in commands}
        if topology.is_stale or len(addresses) != 1:
            return False
        wire = self._wires.get(addresses.pop())  # there is none to nobody
        return wire is not None and wire.ask(commands, partial(self._on_answers, commands, answered))

    def _on_answers(
        self, commands: Sequence[Command], answered: Answered, replies: list[Any] | Exception
    ) -> None:
        if isinstance(replies, Exception):
            self._topology.is_stale = True
        elif any(map(_is_redirected, replies)):
            task = asyncio.get_running_loop().create_task(self._follow(commands, answered, replies))
            self._following.add(task)
            task.add_done_callback(self._following.discard)
            return
        answered(replies)

    async def _follow(self, commands: Sequence[Command], answered: Answered, replies: list[Any]) -> None:
        try:
            await self._send_on(commands, replies)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            answered(error)
        else:
            answered(replies)

    async def _send_on(self, commands: Sequence[Command], replies: list[Any]) -> None:
        """Send on what turned out to be elsewhere, until it is where it was said to be."""
        for _ in range(MAX_HOPS):
            if not any(map(_is_redirected, replies)):
                return
            for index, reply in enumerate(replies):
                if _says(reply, "ASK "):
                    replies[index] = await self._ask_there(str(reply), commands[index])
            left = [index for index, reply in enumerate(replies) if _says(reply, "MOVED ")]
            if left:
                await self._topology.refresh()
                await self._send(commands, left, replies)

    async def _send(self, commands: Sequence[Command], indexes: Sequence[int], replies: list[Any]) -> None:
        """Send some of the commands, and put each one's reply, or why there is none, in its place."""
        by_server: dict[Address, list[int]] = {}
        for index in indexes:
            replies[index] = None
            key = key_of(commands[index])
            try:
                addresses = self._topology.servers if key is None else [self._topology.server_of(key)]
            except RedisConnectionError as error:  # for this command alone: others have their servers
                replies[index] = hiredis.ReplyError(f"LOST {error}")
                continue
            for address in addresses:
                by_server.setdefault(address, []).append(index)
        asked = [self._ask(address, commands, mine, replies) for address, mine in by_server.items()]
        if len(asked) == 1:
            await asked[0]
        elif asked:
            await asyncio.gather(*asked)

    async def _ask(
        self, address: Address, commands: Sequence[Command], indexes: Sequence[int], replies: list[Any]
    ) -> None:
        try:
            answers = await self._wire(address).exchange([commands[index] for index in indexes])
        except LOST as error:
            self._topology.is_stale = True
            answers = [_lost(address, error)] * len(indexes)
        for index, answer in zip(indexes, answers, strict=True):
            # What went to all servers is not done while one of them refuses it.
            if not isinstance(replies[index], hiredis.ReplyError):
                replies[index] = answer

    async def _ask_there(self, redirection: str, command: Command) -> Any:
        """Follow one command to where its slot is moving to; the slot itself has not moved yet."""
        host, _, port = redirection.split()[-1].rpartition(":")
        address = (host, int(port))
        # The connection that is kept may be in use for another part of this exchange.
        wire = ServerWire(self._topology.pool_of(address), self._timeout_s, replicas=self._replicas)
        try:
            _, answer = await wire.exchange([("ASKING",), command])
        except LOST as error:
            return _lost(address, error)
        finally:
            await wire.close()
        return answer

    async def holders(self) -> Sequence[Holder]:
        """Return each server that holds keys, as the cluster is now; raises one of `LOST`."""
        topology = self._topology
        await topology.refresh()
        return [
            Holder(f"{address[0]}:{address[1]}", topology.slots_of(address), self._wire(address))
            for address in topology.servers
        ]

    def beside(self, address: str, timeout_s: float) -> Wire | None:
        """Return a way to any server, whether it holds keys or not."""
        host, _, port = address.rpartition(":")
        return ServerWire(self._topology.pool_of((host, int(port))), timeout_s)

    async def close(self) -> None:
        """Drop the connections, and ask anew who has what."""
        wires, self._wires = self._wires, {}
        self._topology.is_stale = True
        for wire in wires.values():
            await wire.close()

    def _wire(self, address: Address) -> ServerWire:
        wire = self._wires.get(address)
        if wire is None:
            pool = self._topology.pool_of(address)
            wire = self._wires[address] = ServerWire(pool, self._timeout_s, replicas=self._replicas)
        return wire


def _lost(address: Address, error: Exception) -> hiredis.ReplyError:
    return hiredis.ReplyError(f"LOST {address[0]}:{address[1]}: {error}")


def _is_redirected(reply: object) -> bool:
    return _says(reply, "MOVED ") or _says(reply, "ASK ")


def _says(reply: object, what: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(what)
