"""The way back: an emptied or outdated Redis is filled from the ledger.

Counters first, records last, so that no call is granted against counters that are not whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clients import Client, wire_to
from metering.ledger import marks, revisions, usage
from metering.names import READY
from metering.projecting import project_pending
from metering.projection import project
from metering.restore import restore
from metering.wire import refuse_errors
from policies.period import day_of
from policies.quota import bucket_of, oldest_counted_bucket

CHUNK = 1000
Progress = Callable[[str, int], None]  # what is being done, and to how many it was done so far


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many key days were looked at, counters were lower than in the ledger, and records exist."""

    key_days: int
    raised: int
    records: int


async def rebuild(
    redis: Client, engine: AsyncEngine, *, zone: ZoneInfo, now: float, progress: Progress | None = None
) -> RebuildReport:
    """Restore the counters of the last days, then all records; what it raises is of the stores.

    It may be run at any time, calls under way: no counter is lowered, and no record is replaced by an older
    one. Where Redis has newer records than the ledger, which then came out of a backup, the ledger's get a
    revision that overtakes them.
    """
    # A rolling window is kept with the day on which it was last seen, and just after midnight it reaches back
    # to the last minutes of the day before yesterday.
    since = day_of(now, zone) - timedelta(days=2)
    oldest = oldest_counted_bucket(bucket_of(now))
    key_days = raised = records = 0
    wire = wire_to(redis)
    try:
        async with engine.connect() as connection, marks.carrying(connection):
            after = None
            while places := await usage.places_since(connection, since, after=after, limit=CHUNK):
                snapshots = await usage.read(connection, places)
                for snapshot in snapshots:
                    snapshot.buckets = {
                        name: units for name, units in snapshot.buckets.items() if int(name) >= oldest
                    }
                raised += await restore(wire, snapshots)
                key_days += len(places)
                after = places[-1]
                if progress is not None:
                    progress("counters", key_days)
            last = ""
            while found := await revisions.records(connection, after=last, limit=CHUNK):
                in_force = await project(redis, found, restored=True)
                await revisions.mark_projected(connection, found)
                await revisions.overtake(connection, in_force)
                await connection.commit()
                records += len(found)
                last = found[-1].key_id
                if progress is not None:
                    progress("records", records)
            while await project_pending(redis, engine):
                pass
            mark = max(int(now * 1000), await marks.get(connection, marks.ROLLUP))
            refuse_errors(await wire.exchange([("SET", READY, mark)]))
        return RebuildReport(key_days, raised, records)
    finally:
        await wire.close()
