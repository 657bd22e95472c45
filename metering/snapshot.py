"""The counters of one key on one day as absolute numbers, out of Redis' hash or the ledger's rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import Enum
from functools import lru_cache

Method = tuple[str, str]  # counted name, class
DENIED, WAIVED = "denied", "waived"
_EFFECT_OF = {"d": DENIED, "v": WAIVED}
_PREFIX_OF = {effect: prefix for prefix, effect in _EFFECT_OF.items()}
METHOD_PREFIXES = ("c", "t", "w")  # calls, units taken, units waived


@dataclass(slots=True)
class Snapshot:
    """What is known of a key's day.

    `methods` holds calls, units taken and units waived; `reasons` holds denied calls and waived units by
    (effect, reason); `used` and `back` are the quota's units taken and given back; `buckets` is the rolling
    window by number, which may be empty, of a key that is `rolling`.
    """

    key_id: str
    day: date
    used: int = 0
    back: int = 0
    first_at: datetime | None = None
    methods: dict[Method, list[int]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    buckets: dict[str, int] = field(default_factory=dict)
    rolling: bool = False

    @property
    def is_empty(self) -> bool:
        """Say whether nothing was ever counted here."""
        return not (self.used or self.back or self.methods or self.reasons)

    def fields(self) -> Iterator[tuple[str, int]]:
        """Yield the counters by their names in Redis' hash, those that are not zero."""
        if self.used:
            yield "used", self.used
        if self.back:
            yield "back", self.back
        for (method, klass), numbers in self.methods.items():
            for prefix, number in zip(METHOD_PREFIXES, numbers, strict=True):
                if number:
                    yield f"{prefix}:{method}|{klass}", number
        for (effect, reason), units in self.reasons.items():
            if units:
                yield f"{_PREFIX_OF[effect]}:{reason}", units


def day_text(day: date) -> str:
    """Write a day as it stands in Redis' names."""
    return f"{day:%Y%m%d}"


@lru_cache(maxsize=512)
def read_day(text: str) -> date:
    """Read a day out of Redis' names; raises ValueError."""
    if len(text) != 8 or not text.isdecimal():
        raise ValueError(f"{text!r} is not a day")
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


class _Kind(Enum):
    METHOD = 1
    REASON = 2
    USED = 3
    BACK = 4
    FIRST = 5
    ROLLING = 6
    OTHER = 7  # the writers' batch numbers are none of the counts


@lru_cache(maxsize=100_000)
def _name_of(raw: bytes) -> tuple[_Kind, tuple[str, str], int]:
    """What a hash's field counts; few are different, and they come again for every key."""
    prefix, _, rest = raw.decode().partition(":")
    if prefix in _PLACE_OF:
        method, _, klass = rest.rpartition("|")
        return _Kind.METHOD, (method, klass), _PLACE_OF[prefix]
    if (reason := reason_of(raw.decode())) is not None:
        return _Kind.REASON, reason, 0
    return _PLAIN.get(prefix, _Kind.OTHER), ("", ""), 0


def reason_of(name: str) -> tuple[str, str] | None:
    """Return effect and reason that a hash's field counts, None for one that counts something else."""
    prefix, _, rest = name.partition(":")
    return (_EFFECT_OF[prefix], rest) if prefix in _EFFECT_OF else None


_PLACE_OF = {prefix: place for place, prefix in enumerate(METHOD_PREFIXES)}
_PLAIN = {"used": _Kind.USED, "back": _Kind.BACK, "first": _Kind.FIRST, "rolling": _Kind.ROLLING}


def read_hash(key_id: str, day: date, pairs: Sequence[bytes]) -> Snapshot:
    """Read a day's hash, names and values in turn."""
    snapshot = Snapshot(key_id, day)
    methods = snapshot.methods
    for raw, value in zip(pairs[::2], pairs[1::2], strict=True):
        kind, name, place = _name_of(raw)
        if kind is _Kind.METHOD:
            numbers = methods.get(name)
            if numbers is None:
                numbers = methods[name] = [0, 0, 0]
            numbers[place] = int(value)
        elif kind is _Kind.REASON:
            snapshot.reasons[name] = int(value)
        elif kind is _Kind.USED:
            snapshot.used = int(value)
        elif kind is _Kind.BACK:
            snapshot.back = int(value)
        elif kind is _Kind.FIRST:
            snapshot.first_at = datetime.fromtimestamp(int(value) / 1000, UTC)
        elif kind is _Kind.ROLLING:
            snapshot.rolling = True
    return snapshot


def read_window(pairs: Sequence[bytes]) -> dict[str, int]:
    """Read the buckets of a rolling window's hash, as names and values in turn."""
    return {
        name.decode(): int(pairs[index + 1])
        for index in range(0, len(pairs), 2)
        if (name := pairs[index]).isdigit()
    }


def behind(seen: Snapshot, ledger: Snapshot) -> dict[str, tuple[int, int]]:
    """Return the counters that stand lower than in the ledger: (value seen, value in the ledger) by name."""
    have: Mapping[str, int] = dict(seen.fields())
    return {
        name: (have.get(name, 0), number) for name, number in ledger.fields() if have.get(name, 0) < number
    }
