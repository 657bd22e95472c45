"""What is counted, and how a batch of it is written for the scripts and read from their replies. Pure.

Calls that are alike (the same `Take`) form a group, groups of one key on one day an entry. All calls of a
batch were under way at the same time, so the script may serve them in any order; within a group grants go by
arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from metering.commands import Argument, Command, evalsha
from metering.names import day_name, names_of, record_name, roll_name, shard_of, touched_name
from metering.scripts import SETTLE, TAKE
from policies.quota import Window
from policies.record import KeyRecord
from policies.waiver import Waiver


class Outcome(Enum):
    """What became of a call that was to be counted."""

    GRANTED = "granted"  # counted; it may be made
    EXHAUSTED = "exhausted"  # the quota has less left than it costs; counted as denied
    STALE = "stale"  # the key's record is another one; nothing was counted
    MISSING = "missing"  # Redis has no record of the key; nothing was counted
    UNAVAILABLE = "unavailable"  # not counted within the deadline; what is counted later is waived


class Take(NamedTuple):
    """One call to be counted, of `cost` units against `limit` units (None for none).

    `revision` is that of the record it was decided on, `day` the billing timezone's day of its admission
    (`20261121`) and `bucket` the number of its ten minutes, which matters for a rolling window only. One that
    is `priced_later` costs nothing yet and is paid by what its answer holds: it needs a unit that is left. A
    tuple, because equal takes are found by their hash for every call.
    """

    key_id: str
    revision: int
    day: str
    method: str
    klass: str
    cost: int
    billable: bool
    limit: int | None
    window: Window
    bucket: int
    priced_later: bool = False


@dataclass(slots=True)
class Taken:
    """What a take came to. Nobody changes it; one that is frozen is made at half the speed.

    `used` is in units, in use in the window after the call's batch. `record` is the one to decide on anew
    when STALE. `oldest_bucket` is the oldest one with units of a rolling window: when it leaves, units come
    back.
    """

    outcome: Outcome
    used: int
    record: KeyRecord | None = None
    oldest_bucket: int | None = None


Place = tuple[str, str]  # a key's id and a day
Done = Callable[[Taken], None]
Where = TypeVar("Where", Take, Place)
What = TypeVar("What")
Groups = dict[
    Take, list[Any]
]  # first when the first of them came (epoch s), then what each of them waits with
UNAVAILABLE = Taken(Outcome.UNAVAILABLE, 0)
_MISSING = Taken(Outcome.MISSING, 0)
_NO_RECORD = -1
_ROLLING = Window.ROLLING_24H  # a member of an enumeration is found ten times slower than a name of a module
_GRANTED = Outcome.GRANTED
FIRST = "first"  # the field of a day's hash that holds a time, not a number


@dataclass(slots=True)
class Owed:
    """What is to be added to the counters of a key on a day: units or calls by field, units by bucket.

    `first_ms` is the time of the day's first call (epoch ms) where calls are added that were not taken; the
    earliest one stands.
    """

    fields: dict[str, int] = field(default_factory=dict)
    buckets: dict[int, int] = field(default_factory=dict)
    first_ms: int | None = None

    def add(self, name: str, number: int) -> None:
        """Add to a field."""
        self.fields[name] = self.fields.get(name, 0) + number

    def add_to_bucket(self, bucket: int, units: int) -> None:
        """Add units to a bucket of the rolling window; negative ones give back."""
        self.buckets[bucket] = self.buckets.get(bucket, 0) + units

    def merge(self, other: Owed) -> None:
        """Add all that another one holds."""
        for name, number in other.fields.items():
            self.add(name, number)
        for bucket, units in other.buckets.items():
            self.add_to_bucket(bucket, units)
        if other.first_ms is not None:
            self.first_ms = min(other.first_ms, self.first_ms or other.first_ms)


@dataclass(frozen=True, slots=True)
class Sent:
    """A settlement that was sent and not answered: sent again under the same number it has one effect."""

    writer: str
    number: int
    owed: Mapping[Place, Owed]


def admit(owed: Owed, take: Take, now: float) -> None:
    """Count a call that was let through at `now` (epoch s) without a take, just as a take does."""
    field_name, units = f"{take.method}|{take.klass}", take.cost
    owed.add(f"c:{field_name}", 1)
    owed.first_ms = min(int(now * 1000), owed.first_ms or int(now * 1000))
    if units == 0:
        return
    owed.add(f"t:{field_name}", units)
    owed.add("used", units)
    if not take.billable:
        owed.add(f"w:{field_name}", units)
        owed.add(f"v:{Waiver.FREE_METHOD.value}", units)
    if take.window is Window.ROLLING_24H:
        owed.add_to_bucket(take.bucket, units)


def by_shard(items: Mapping[Where, What]) -> Iterator[dict[Where, What]]:
    """Part by their shard what is counted for many keys; the key's id comes first in its place."""
    parted: dict[str, dict[Where, What]] = {}
    for where, what in items.items():
        parted.setdefault(shard_of(where[0]), {})[where] = what
    yield from parted.values()


def waive(owed: Owed, take: Take, waiver: Waiver, calls: int = 1) -> None:
    """Give the quota of `calls` calls back, and their price where there is one (contract OT-15)."""
    units = take.cost * calls
    if units == 0:
        return
    if take.billable:
        owed.add(f"w:{take.method}|{take.klass}", units)
        owed.add(f"v:{waiver.value}", units)
    owed.add("back", units)
    if take.window is Window.ROLLING_24H:
        owed.add_to_bucket(take.bucket, -units)


def charge_more(owed: Owed, take: Take, units: int) -> None:
    """Count further units of a call that was taken, whatever the limit says (contract OT-15)."""
    owed.add(f"t:{take.method}|{take.klass}", units)
    owed.add("used", units)
    if not take.billable:
        owed.add(f"w:{take.method}|{take.klass}", units)
        owed.add(f"v:{Waiver.FREE_METHOD.value}", units)
    if take.window is Window.ROLLING_24H:
        owed.add_to_bucket(take.bucket, units)


class TakeBatch:
    """Takes that are counted together under one number of their writer."""

    __slots__ = ("_entries", "command")

    def __init__(self, groups: Groups, writer: str, number: int, ttl_s: int) -> None:
        entries: dict[tuple[str, str], list[tuple[Take, list[Any]]]] = {}
        for item in groups.items():
            place = (item[0].key_id, item[0].day)
            entry = entries.get(place)
            if entry is None:
                entries[place] = [item]
            else:
                entry.append(item)
        keys: list[Argument] = []
        arguments: list[Argument] = [writer, number, ttl_s]
        for (key_id, day), entry in entries.items():
            rolling = False
            at = len(arguments)
            # All parts of a take at once: one by one they take longer than the rest.
            for take, waiting in entry:
                _, revision, _, method, klass, cost, billable, limit, window, bucket, later = take
                if window is _ROLLING:
                    rolling = True
                else:
                    bucket = -1
                arguments += (
                    revision,
                    -1 if limit is None else limit,
                    f"{method}|{klass}",
                    len(waiting) - 1,
                    cost,
                    2 if later else 0 if billable else 1,
                    bucket,
                )
            member = f"{key_id}:{day}"
            arguments[at:at] = (member, int(entry[0][1][0] * 1000), len(entry), 1 if rolling else 0)
            keys += names_of(key_id, member)
            if rolling:
                keys.append(roll_name(key_id))
        self._entries = entries.values()
        self.command: Command = evalsha(TAKE, keys, arguments)

    def read(self, replies: list[Any]) -> Iterator[tuple[Take, list[Any], int, Taken, Taken]]:
        """Yield each group: its take, what waits, how many of them are granted, their answer, the rest's."""
        for entry, reply in zip(self._entries, replies, strict=True):
            if type(reply) is int:
                if reply >= 0:
                    granted = Taken(_GRANTED, reply)
                    for take, waiting in entry:
                        yield take, waiting, len(waiting) - 1, granted, granted
                else:
                    answer = _MISSING if reply == _NO_RECORD else UNAVAILABLE
                    for take, waiting in entry:
                        yield take, waiting, 0, answer, answer
                continue
            used, oldest, data, *grants = reply
            bucket = None if oldest < 0 else oldest
            stale = _stale(data)
            granted = Taken(_GRANTED, used, None, bucket)
            exhausted = Taken(Outcome.EXHAUSTED, used, None, bucket)
            for (take, waiting), calls in zip(entry, grants, strict=True):
                yield take, waiting, max(calls, 0), granted, stale if calls < 0 else exhausted

    def waiting(self) -> Iterator[list[Any]]:
        """Yield what waits, by group."""
        for entry in self._entries:
            for _, waiting in entry:
                yield waiting


def _stale(data: bytes) -> Taken:
    """A record that cannot be read is as good as none."""
    try:
        return Taken(Outcome.STALE, 0, KeyRecord.from_json(data))
    except (ValueError, TypeError):
        return _MISSING


def encode_settlement(owed: Mapping[Place, Owed], writer: str, number: int, ttl_s: int) -> Command:
    """Return the command that adds what is owed, by (key, day), under one number of the writer."""
    return evalsha(SETTLE, *settlement(owed, writer, number, ttl_s))


def settlement(
    owed: Mapping[tuple[str, str], Owed], writer: str, number: int, ttl_s: int
) -> tuple[list[Argument], list[Argument]]:
    """Return keys and arguments for `settle.lua`."""
    keys: list[Argument] = []
    arguments: list[Argument] = [writer, number, ttl_s]
    for (key_id, day), due in owed.items():
        keys += (record_name(key_id), day_name(key_id, day), touched_name(key_id[-2:]))
        if due.buckets:
            keys.append(roll_name(key_id))
        first = due.first_ms is not None
        arguments += (f"{key_id}:{day}", len(due.fields) + first, len(due.buckets))
        if due.first_ms is not None:
            arguments += (FIRST, due.first_ms)
        for name, number_of in due.fields.items():
            arguments += (name, number_of)
        for bucket, units in due.buckets.items():
            arguments += (bucket, units)
    return keys, arguments
