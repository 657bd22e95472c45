"""From the ledger's rows back to the counters in Redis, never lowering one that stands higher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.clients import Client, wire_to
from metering.commands import Argument
from metering.ledger import usage
from metering.names import day_name, roll_name, touched_name
from metering.scripts import RAISE
from metering.snapshot import Snapshot, day_text
from metering.wire import Wire

KEPT_S = 8 * 86_400  # how long a hash lives that comes to be by restoring it
WHATEVER_IS_THERE = -1


def raise_call(
    ledger: Snapshot, fields: Iterable[tuple[str, int, int]]
) -> tuple[list[Argument], list[Argument]]:
    """Return keys and arguments for `raise.lua`; `fields` are (name, value seen, value in the ledger)."""
    day = day_text(ledger.day)
    keys: list[Argument] = [day_name(ledger.key_id, day), touched_name(ledger.key_id[-2:])]
    if ledger.buckets:
        keys.append(roll_name(ledger.key_id))
    triples = [part for triple in fields for part in triple]
    first_ms = 0 if ledger.first_at is None else round(ledger.first_at.timestamp() * 1000)
    arguments: list[Argument] = [
        f"{ledger.key_id}:{day}",
        KEPT_S,
        first_ms,
        len(triples) // 3,
        len(ledger.buckets),
    ]
    arguments += triples
    for bucket, units in ledger.buckets.items():
        arguments += (bucket, units)
    return keys, arguments


async def restore(wire: Wire, snapshots: Sequence[Snapshot]) -> int:
    """Raise counters to what the ledger has; return how many were lower. Raises what `Wire.run` raises."""
    calls = [
        raise_call(snapshot, [(name, WHATEVER_IS_THERE, number) for name, number in snapshot.fields()])
        for snapshot in snapshots
        if not snapshot.is_empty
    ]
    return sum(await wire.run(RAISE, calls))


async def restore_latest(redis: Client, connection: AsyncConnection, key_ids: Sequence[str]) -> None:
    """Restore the last two days of keys whose record is about to come back."""
    places = await usage.latest_places(connection, key_ids)
    wire = wire_to(redis)
    try:
        await restore(wire, await usage.read(connection, places))
    finally:
        await wire.close()
