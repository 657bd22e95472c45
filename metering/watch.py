"""Watching who holds the counters: looked at when a roll-up begins and again when it ends.

A server that goes on from one roll-up to the next has kept every count between them. Where another one has
taken its place an interruption is written down, and everything of the ledger is brought back, since changes
of keys may lack too. Nothing is noted of a roll-up in whose middle a server changed: the next one finds it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from metering import histories
from metering.histories import History, shards_in
from metering.interruptions import Evidence, Interruption, Kept, Kind, find, named, proves
from metering.ledger import interruptions, marks
from metering.ledger.audit import Author
from metering.names import rolled_name
from metering.scripts import ADVANCE
from metering.wire import Wire, refuse_errors

PROOF_WITHIN = timedelta(minutes=5)  # a server of before that has not come back by then is not asked again
AUTHOR = Author("rollup")


class Watch:
    """The servers under one roll-up, from `begin` to `end`.

    `is_blind` says that a server does not let itself be asked, so that nothing can be noticed. `is_unsure`
    says that counts or changes of keys may lack in Redis.
    """

    def __init__(self, wire: Wire, now: float, replicas: int, life: int = 0) -> None:
        """Watch what `wire` leads to in the roll-up of `now` (epoch s), where counts wait for `replicas`.

        `life` is a number that is higher after every death of the counters' machine, 0 when nobody knows.
        """
        self._wire = wire
        self._began = asyncio.get_running_loop().time()
        self._now = now
        self._replicas = replicas
        self._life = life
        self._seen: list[History] = []
        self._marks: dict[str, int] = {}
        self._found: list[Interruption] = []
        self._kept: list[Kept] = []
        self.is_blind = False

    async def begin(self, connection: AsyncConnection) -> None:
        """Look who holds the counters; what it raises is of the stores."""
        self._seen = await self._look()
        if self.is_blind:
            return
        self._kept = kept = await interruptions.kept(connection)
        shards = {each.shard for each in kept} | {_shard(each) for each in self._seen}
        self._marks = await histories.marks_of(self._wire, sorted(filter(None, shards)))
        # The clock of the caller stood at the beginning; by now others may have held the lock for a while.
        until = self._instant(asyncio.get_running_loop().time() - self._began)
        outlived = 0 < await marks.get(connection, marks.LIFE) < self._life
        for finding in find(kept, self._seen, self._marks, replicas=self._replicas, machine_died=outlived):
            self._found.append(await self._proven_if_so(named(finding, until)))

    @property
    def is_unsure(self) -> bool:
        """Say whether somebody may lack something; only a server of before can rule it out for all writes."""
        return any(each.evidence is not Evidence.PROVEN for each in self._found)

    async def end(self, connection: AsyncConnection) -> list[Interruption]:
        """Note who holds the counters, and commit; return the interruptions that are new."""
        if self.is_blind or not await self._is_steady():
            return []
        replaced = {each.run_id for each in self._found}
        servers = []
        for each in self._seen:
            shard = _shard(each)
            mark = self._marks.get(shard, 0) if shard is not None else 0
            kept = Kept(each, self._instant(), shard, mark, self._replicas)
            # The mark of who took over stays as it was found until its interruption is written down.
            noted = kept if each.run_id in replaced else await self._marked(kept)
            if noted is None:
                return []
            servers.append(noted)
        added = await interruptions.add(connection, self._found, now=self._instant(), by=AUTHOR)
        await interruptions.keep(connection, servers, instead_of=self._kept)
        if self._life:
            await marks.raise_to(connection, marks.LIFE, self._life)
        await connection.commit()
        if replaced:
            fresh = [await self._marked(each) for each in servers if each.history.run_id in replaced]
            await interruptions.keep(connection, [each for each in fresh if each is not None])
            await connection.commit()
        return added

    async def look_back(self, connection: AsyncConnection) -> list[Interruption]:
        """Ask servers that were replaced a short while ago once more, and commit; return what they proved.

        A server that hands over in good order follows its successor a moment later.
        """
        proven = []
        for each in await interruptions.unproven(connection, self._instant() - PROOF_WITHIN):
            now = await self._proven_if_so(each)
            if now.evidence is Evidence.PROVEN:
                proven.append(await interruptions.prove(connection, each, now=self._instant(), by=AUTHOR))
        if proven:
            await connection.commit()
        return proven

    async def _look(self) -> list[History]:
        found = await histories.observe(self._wire)
        self.is_blind = None in found
        return [history for history in found if history is not None]

    async def _is_steady(self) -> bool:
        again = {each.run_id: each.replid for each in await self._look()}
        return again == {each.run_id: each.replid for each in self._seen}

    async def _marked(self, kept: Kept) -> Kept | None:
        """Leave a higher mark with a server; None when the one that was seen is gone."""
        if kept.shard is None:
            return kept
        # Higher than any before, also where the mark was lost and the clock stands still.
        highest = max(each.mark for each in (*self._kept, kept))
        name, higher = rolled_name(kept.shard), max(int(self._now * 1000), highest + 1)
        if kept.mark:
            (advanced,) = await self._wire.run(ADVANCE, [((name,), (kept.mark, higher))])
            return replace(kept, mark=higher) if advanced else None
        refuse_errors(await self._wire.exchange([("SET", name, higher)]))
        return replace(kept, mark=higher)

    async def _proven_if_so(self, interruption: Interruption) -> Interruption:
        may_be = interruption.kind is Kind.FAILOVER and interruption.evidence is Evidence.UNKNOWN
        if may_be and interruption.former_address != interruption.address:
            answer = await histories.ask(self._wire, interruption.former_address)
            if proves(answer, interruption):
                return replace(interruption, evidence=Evidence.PROVEN)
        return interruption

    def _instant(self, later_s: float = 0.0) -> datetime:
        return datetime.fromtimestamp(self._now + later_s, UTC)


def _shard(history: History) -> str | None:
    """Return the shard in which a server's mark stands: the first that it holds."""
    return next(iter(shards_in(history.slots)), None)
