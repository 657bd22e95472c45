"""Counting on a cluster: a lane for each server, so that one that is away holds up its own keys only.

Which lane a key's calls take follows the cluster as it was last heard of. Each lane counts under a name of
its own, so a key that changes lanes, because its slot moved or another server took over, is counted as
exactly as by two gateways. The lane of a server that has no slots any more ends once nothing is owed to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from metering.batches import UNAVAILABLE, Done, Owed, Place, Sent, Take
from metering.breaker import Breaker
from metering.clients import Client, ClusterClient
from metering.cluster import Address, Topology
from metering.counters import Counters
from metering.names import SHARDS, shard_of, touched_name
from metering.wire import LOST
from policies.decision import Reason
from policies.waiver import Waiver

LOOK_EVERY_S = 1.0  # whether a lane that nobody takes any more may end
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5  # between attempts to find the cluster at the start


class ClusterCounters:
    """Counts the calls of one process on a cluster, as `Counters` does on one server.

    The breaker is open while no server of the cluster counts. With only some away, calls of their keys are
    answered UNAVAILABLE, and all others are counted.
    """

    def __init__(self, client: ClusterClient, *, writer: str, deadline_s: float, **options: Any) -> None:
        """Take what `Counters` takes."""
        self._topology: Topology = client.topology
        self._client = client
        self._options: dict[str, Any] = {"writer": writer, "deadline_s": deadline_s, **options}
        self._by_server: dict[Address, Counters] = {}
        self._by_shard: dict[str, Counters] = {}
        self._leaving: dict[Counters, asyncio.Task[None]] = {}  # lanes that nobody takes any more
        self._version = -1
        self._finding: asyncio.Task[None] | None = None
        self._closing = False
        self.breaker = Breaker(time.monotonic)

    async def start(self) -> None:
        """Begin to count; the cluster may be away."""
        self._loop = asyncio.get_running_loop()
        self.breaker.open("the cluster was not found yet")
        self._finding = self._loop.create_task(self._find(), name="cluster")

    async def close(self) -> None:
        """Send what is queued in all lanes; calls that still wait are answered UNAVAILABLE."""
        self._closing = True
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait({self._finding})
        for leaving in self._leaving.values():
            leaving.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self._lanes))
        self.breaker.end()

    def unsettled(self) -> dict[Place, Owed]:
        """Return what was to be settled and never sent, after `close`."""
        found: dict[Place, Owed] = {}
        for lane in self._lanes:
            for place, owed in lane.unsettled().items():
                found.setdefault(place, Owed()).merge(owed)
        return found

    def in_doubt(self) -> list[Sent]:
        """Return the settlements that were sent and not answered, after `close`."""
        return [sent for lane in self._lanes for sent in lane.in_doubt()]

    @property
    def pending(self) -> int:
        """Return how many calls wait for their count, and how many (key, day) wait for their settlement."""
        return sum(lane.pending for lane in self._lanes)

    @property
    def last_error(self) -> str | None:
        """Return why some round has to be sent again; None while all is well."""
        return next((lane.last_error for lane in self._lanes if lane.last_error), None)

    def take(self, take: Take, now: float, done: Done) -> None:
        """Count a call that came at `now` (epoch s); `done` gets the result later, from the loop."""
        lane = self._lane(take.key_id)
        if lane is None:
            self._loop.call_soon(done, UNAVAILABLE)
        else:
            lane.take(take, now, done)

    def doubt(self, since: float) -> None:
        """Find out which servers answer; `Counters.doubt` says when."""
        for lane in self._by_server.values():
            lane.doubt(since)

    def waive(self, take: Take, waiver: Waiver) -> None:
        """Settle a granted call that is not charged."""
        self._settling(take.key_id).waive(take, waiver)

    def charge_more(self, take: Take, units: int) -> None:
        """Settle a granted call that cost `units` more than was taken."""
        self._settling(take.key_id).charge_more(take, units)

    def deny(self, key_id: str, day: str, reason: Reason) -> None:
        """Count a call that was refused before it was taken."""
        self._settling(key_id).deny(key_id, day, reason)

    @property
    def _lanes(self) -> list[Counters]:
        return [*self._by_server.values(), *self._leaving]

    def _lane(self, key_id: str) -> Counters | None:
        if self._version != self._topology.version and not self._closing:
            self._share_out()
        return self._by_shard.get(shard_of(key_id))

    def _settling(self, key_id: str) -> Counters:
        # What is settled was taken or decided on a record of the cluster, so that its servers are known.
        lane = self._lane(key_id)
        assert lane is not None
        return lane

    async def _find(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._topology.is_stale:
            try:
                await self._topology.refresh()
            except LOST as error:
                self.breaker.why = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._share_out()

    def _share_out(self) -> None:
        """Give every shard the lane of the server that has it now."""
        self._version = self._topology.version
        for shard in SHARDS:
            address = self._topology.find(touched_name(shard))
            if address is None:
                continue  # nobody has it for the moment: its calls wait in the lane that they took so far
            lane = self._by_server.get(address)
            if lane is None:
                lane = self._by_server[address] = self._new_lane(shard)
                lane.breaker.listen(self._on_change)
                lane.begin()
            self._by_shard[shard] = lane
        taken = set(self._by_shard.values())
        for address, lane in list(self._by_server.items()):
            if lane not in taken:
                del self._by_server[address]
                self._leaving[lane] = self._loop.create_task(self._leave(lane), name="leave a lane")
        self._on_change(None)

    async def _leave(self, lane: Counters) -> None:
        """End a lane once all that it sent is answered and all that it owes is settled."""
        while lane.pending:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(LOOK_EVERY_S)
        await lane.close()
        del self._leaving[lane]

    def _new_lane(self, shard: str) -> Counters:
        # Its server alone is asked for a sign of life: another one's silence says nothing of it.
        return Counters(self._client, sign_of_life=("EXISTS", touched_name(shard)), **self._options)

    def _on_change(self, _: object) -> None:
        lanes = set(self._by_shard.values())
        if lanes and all(lane.breaker.is_open for lane in lanes):
            self.breaker.open(next(lane.breaker.why for lane in lanes))
        elif lanes:
            self.breaker.close()


AnyCounters = Counters | ClusterCounters


def counters_on(client: Client, **options: Any) -> AnyCounters:
    """Return the counters that fit what a client is connected to; `options` are those of `Counters`."""
    make: Callable[..., AnyCounters] = ClusterCounters if isinstance(client, ClusterClient) else Counters
    return make(client, **options)
