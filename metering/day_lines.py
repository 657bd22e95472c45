"""A key's day as lines of PostgreSQL's COPY, made straight from Redis' hash.

A roll-up carries every number from one store to the other and looks at hardly any. So no object is made for
it: names are translated once, and numbers stay the digits that they are. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TypeVar

from metering.snapshot import METHOD_PREFIXES, Snapshot, reason_of

NULL = rb"\N"
_ARRAY_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NAMES_MAX = 100_000

# A name of two parts, a method and its class or an effect and its reason, in one: PostgreSQL takes no text
# with this sign, and names in one are in the order of their parts.
_SEPARATOR = "\0"
_Values = dict[str, bytes]  # numbers as they are written, by the name of what they count
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class DayLines:
    """What the ledger's tables get of a key's day, as lines of text: none where there is nothing."""

    key_id: str
    day: date
    facts: bytes  # of `key_days`, with the sum of the reasons and whether nothing was ever counted here
    reasons: bytes  # of `usage_reasons_daily`
    is_empty: bool  # whether nothing was ever counted here


def lines_of_hash(
    key_id: str, day: date, pairs: Sequence[bytes], buckets: Mapping[str, int] | None
) -> DayLines:
    """Return the lines of a day's hash (names and values in turn); `buckets` are None without a window."""
    told: tuple[_Values, ...] = ({}, {}, {}, {}, {})  # one for each kind of field
    fields = _FIELDS
    for raw, value in zip(pairs[::2], pairs[1::2], strict=True):
        kind, name = fields[raw]
        told[kind][name] = value
    calls, taken, waived, reasons, others = told
    first = others.get("first")
    first_at = NULL if first is None else _instant(int(first))
    facts = (others.get("used", b"0"), others.get("back", b"0"), first_at, _window(buckets))
    return _lines(key_id, day, facts, (calls, taken, waived), reasons)


def lines_of(snapshot: Snapshot) -> DayLines:
    """Return the lines of a snapshot."""
    methods: tuple[_Values, ...] = ({}, {}, {})
    for name, numbers in snapshot.methods.items():
        for values, number in zip(methods, numbers, strict=True):
            values[_SEPARATOR.join(name)] = b"%d" % number
    reasons = {_SEPARATOR.join(name): b"%d" % units for name, units in snapshot.reasons.items()}
    first_at = NULL if snapshot.first_at is None else str(snapshot.first_at).encode()
    window = _window(snapshot.buckets if snapshot.rolling else None)
    facts = (b"%d" % snapshot.used, b"%d" % snapshot.back, first_at, window)
    return _lines(snapshot.key_id, snapshot.day, facts, methods, reasons)


def _lines(
    key_id: str, day: date, facts: tuple[bytes, ...], methods: Sequence[_Values], reasons: _Values
) -> DayLines:
    """Return the lines of used, back, first instant and window; of calls, taken and waived; of reasons."""
    place = _place(key_id, day)
    lines, units = b"", 0
    if reasons:
        lines = b"".join([b"%b%b\t%b\n" % (place, _REASONS[name], value) for name, value in reasons.items()])
        with suppress(ValueError):  # the ledger refuses the line
            units = sum(map(int, reasons.values()))
    is_empty = not (any(methods) or reasons) and int(facts[0]) == int(facts[1]) == 0
    row = (place, *facts, _arrays(*methods), b"%d" % units, b"t" if is_empty else b"f")
    return DayLines(key_id, day, b"%b\t%b\t%b\t%b\t%b%b\t%b\t%b\n" % row, lines, is_empty)


def _arrays(calls: _Values, taken: _Values, waived: _Values) -> bytes:
    """Return the five arrays of methods, each with a tab before it.

    They are in the order of names, so that the same methods always make the same arrays.
    """
    if not (calls.keys() >= taken.keys() and calls.keys() >= waived.keys()):
        # Units of a method without its calls: a part of the hash is gone.
        calls = dict.fromkeys([*taken, *waived], b"0") | calls
    names = sorted(calls)
    return b"\t{%b}\t{%b}\t{%b}\t{%b}\t{%b}" % (
        b",".join(map(_METHODS.__getitem__, names)),
        b",".join(map(_CLASSES.__getitem__, names)),
        b",".join(map(calls.__getitem__, names)),
        b",".join([taken.get(name, b"0") for name in names]),
        b",".join([waived.get(name, b"0") for name in names]),
    )


def _place(key_id: str, day: date) -> bytes:
    plain = key_id if key_id.isidentifier() else key_id.translate(_ESCAPES)
    return b"%b\t%b" % (plain.encode(), _day_text(day))


@lru_cache(maxsize=512)
def _day_text(day: date) -> bytes:
    return day.isoformat().encode()


def _instant(epoch_ms: int) -> bytes:
    minute, rest = divmod(epoch_ms, 60_000)
    return b"%b:%02d.%03d+00" % (_minute_text(minute), *divmod(rest, 1000))


@lru_cache(maxsize=10_000)
def _minute_text(minute: int) -> bytes:
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%d %H:%M}".encode()


def _window(buckets: Mapping[str, int] | None) -> bytes:
    return NULL if buckets is None else json.dumps(buckets).encode()  # of digits: nothing to escape


class _Memo(dict[_K, _V]):
    """What is made of names; few are different, and they come again for every key."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: _K) -> _V:
        if len(self) >= _NAMES_MAX:
            self.clear()
        made = self[name] = self._make(name)
        return made


_REASON, _OTHER = len(METHOD_PREFIXES), len(METHOD_PREFIXES) + 1


def _field_of(raw: bytes) -> tuple[int, str]:
    """Return what a hash's field counts: calls, taken, waived, a reason or another thing; and its name."""
    field = raw.decode()
    prefix, colon, rest = field.partition(":")
    if prefix in METHOD_PREFIXES and colon:
        method, _, klass = rest.rpartition("|")
        return METHOD_PREFIXES.index(prefix), f"{method}{_SEPARATOR}{klass}"
    reason = reason_of(field)
    return (_OTHER, field) if reason is None else (_REASON, _SEPARATOR.join(reason))


def _quoted(name: str) -> bytes:
    """Return a name as an element of an array, which is quoted before COPY's own signs are."""
    plain = name.translate(_ARRAY_ESCAPES).translate(_ESCAPES)
    return f'"{plain}"'.encode()


def _columns(name: str) -> bytes:
    """Return the parts of a name as columns, each with a tab before it."""
    return "".join(f"\t{part.translate(_ESCAPES)}" for part in name.split(_SEPARATOR, 1)).encode()


_FIELDS = _Memo(_field_of)
_METHODS: _Memo[str, bytes] = _Memo(lambda name: _quoted(name.partition(_SEPARATOR)[0]))
_CLASSES: _Memo[str, bytes] = _Memo(lambda name: _quoted(name.partition(_SEPARATOR)[2]))
_REASONS = _Memo(_columns)
