"""Reading counters out of Redis without changing them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import date

from metering.clients import Client, wire_to
from metering.commands import Command
from metering.names import SHARDS, collected_name, day_name, roll_name, shard_of, touched_name
from metering.snapshot import Snapshot, read_day, read_hash, read_window
from metering.wire import Wire, refuse_errors
from policies.quota import Window, oldest_counted_bucket

CHUNK = 2000
PIECE = 50_000  # names that are kept and looked at together
SCANNED_TOGETHER = 5000  # names that Redis looks through in one go
ASKED_TOGETHER = 500  # names that it is asked of in one go
# Hashes that Redis is asked for in one go: a tenth of a millisecond, for which calls wait.
AT_ONCE = 20
ROLLING = b"rolling"  # the field of a day whose key has a rolling window


@dataclass(slots=True)
class Found:
    """A day's hash as names and values in turn, and the rolling window of a key that has one."""

    key_id: str
    day: date
    pairs: Sequence[bytes]
    buckets: dict[str, int] | None = None

    def snapshot(self) -> Snapshot:
        """Return the counters as numbers."""
        snapshot = read_hash(self.key_id, self.day, self.pairs)
        snapshot.buckets = self.buckets or {}
        return snapshot


def key_of(member: str) -> str:
    """Return the key's id out of `<key_id>:<day>`."""
    return member.partition(":")[0]


async def find(wire: Wire, members: Sequence[str]) -> list[Found]:
    """Read the hash of each `<key_id>:<day>`, in order, with the rolling window of keys that have one."""
    found: list[Found] = []
    for start in range(0, len(members), AT_ONCE):
        places = [member.split(":") for member in members[start : start + AT_ONCE]]
        hashes = refuse_errors(
            await wire.exchange([("HGETALL", day_name(key_id, day)) for key_id, day in places])
        )
        found += [
            Found(key_id, read_day(day), pairs) for (key_id, day), pairs in zip(places, hashes, strict=True)
        ]
    rolling = [each for each in found if ROLLING in each.pairs[::2]]
    for start in range(0, len(rolling), AT_ONCE):
        some = rolling[start : start + AT_ONCE]
        windows = refuse_errors(await wire.exchange([("HGETALL", roll_name(each.key_id)) for each in some]))
        for each, pairs in zip(some, windows, strict=True):
            each.buckets = read_window(pairs)
    return found


async def read(wire: Wire, members: Sequence[str]) -> list[Snapshot]:
    """Read the counters of each `<key_id>:<day>` as numbers, in order."""
    return [found.snapshot() for found in await find(wire, members)]


async def days_in_turn(wire: Wire, day: str = "*") -> AsyncIterator[set[bytes]]:
    """Yield `<key_id>:<day>` of all counters there are, wherever they are, a few thousand at a time.

    `day` may be a pattern. A counter that is moved meanwhile, within a server or to another, may come twice.
    """
    pattern = day_name("*", day).replace("{*}", "{??}")
    for holder in await wire.holders():
        cursor = b"0"
        while True:
            scan: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_TOGETHER)
            ((cursor, names),) = refuse_errors(await holder.wire.exchange([scan]))
            yield {b":".join(name.split(b":")[-2:]) for name in names}
            if cursor == b"0":
                break


async def in_pieces(
    found: AsyncIterator[Collection[bytes]], but: Collection[bytes] = ()
) -> AsyncIterator[Collection[bytes]]:
    """Yield what is found in pieces: all names of the days that Redis keeps are too many to be in memory."""
    piece: set[bytes] = set()
    async for some in found:
        piece.update(name for name in some if name not in but)
        if len(piece) >= PIECE:
            yield piece
            piece = set()
    if piece:
        yield piece


async def without_counters(wire: Wire, members: Sequence[bytes]) -> set[bytes]:
    """Return those of the `<key_id>:<day>` that there are no counters of."""
    lacking: set[bytes] = set()
    for start in range(0, len(members), ASKED_TOGETHER):
        some = members[start : start + ASKED_TOGETHER]
        names = [day_name(*member.decode().split(":")) for member in some]
        there = refuse_errors(await wire.exchange([("EXISTS", name) for name in names]))
        lacking.update(member for member, is_there in zip(some, there, strict=True) if not is_there)
    return lacking


async def read_changed(
    redis: Client, key_ids: Collection[str] | None, first: str, last_excluded: str
) -> list[Snapshot]:
    """Read counters the ledger does not have yet, of some keys or all; `first <= day < last_excluded`."""
    shards = SHARDS if key_ids is None else sorted({shard_of(key_id) for key_id in key_ids})
    wire = wire_to(redis)
    try:
        commands: list[Command] = [("SUNION", touched_name(shard), collected_name(shard)) for shard in shards]
        found = [
            member
            for members in refuse_errors(await wire.exchange(commands) if commands else [])
            for raw in members
            if first <= (member := raw.decode()).rpartition(":")[2] < last_excluded
            and (key_ids is None or key_of(member) in key_ids)
        ]
        snapshots: list[Snapshot] = []
        for start in range(0, len(found), CHUNK):
            snapshots += await read(wire, found[start : start + CHUNK])
        return snapshots
    finally:
        await wire.close()


async def in_use(redis: Client, key_id: str, *, day: str, window: Window, bucket: int) -> int:
    """Return the units that count against a key's limit now; raises redis-py's RedisError or OSError."""
    if window is Window.DAY:
        used, back = await redis.hmget(day_name(key_id, day), ["used", "back"])
        return int(used or 0) - int(back or 0)
    buckets = await redis.hgetall(roll_name(key_id))
    oldest = oldest_counted_bucket(bucket)
    return sum(int(units) for name, units in buckets.items() if name.isdigit() and int(name) >= oldest)
