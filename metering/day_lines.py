"""A key's day as lines of PostgreSQL's COPY, made straight from Redis' hash.

A roll-up carries every number from one store to the other and looks at hardly any. So no object is made for
it: names are translated once, and numbers stay the digits that they are. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache

from metering.snapshot import METHOD_PREFIXES, Method, Snapshot, read_hash, reason_of

NULL = rb"\N"
_ARRAY_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NAMES_MAX = 100_000
_CALLS, _TAKEN, _WAIVED = (prefix.encode() for prefix in METHOD_PREFIXES)


@dataclass(slots=True)
class DayLines:
    """What the ledger's tables get of a key's day, as lines of text: none where there is nothing."""

    key_id: str
    day: date
    facts: bytes  # of `key_days`
    reasons: bytes  # of `usage_reasons_daily`
    is_empty: bool  # whether nothing was ever counted here
    units: int  # of the reasons' lines, added up

    @property
    def facts_with_sums(self) -> bytes:
        """The line of `key_days` with two columns more: the sum of the reasons, and whether it is empty."""
        return b"%b\t%d\t%b\n" % (self.facts[:-1], self.units, b"t" if self.is_empty else b"f")


def lines_of_hash(
    key_id: str, day: date, pairs: Sequence[bytes], buckets: Mapping[str, int] | None
) -> DayLines:
    """Return the lines of a day's hash (names and values in turn); `buckets` are None without a window."""
    counters = dict(zip(pairs[::2], pairs[1::2], strict=True))
    get = counters.get
    place = _place(key_id, day)
    methods: list[_Line] = []
    reasons: list[bytes] = []
    alone = units = 0
    for name, value in counters.items():
        columns = _COLUMNS[name]
        if columns is None:
            continue
        if isinstance(columns, _MethodColumns):
            taken, waived = get(columns.taken), get(columns.waived)
            if taken is None:
                taken = b"0"
            else:
                alone -= 1
            if waived is None:
                waived = b"0"
            else:
                alone -= 1
            methods.append((columns.order, columns.method, columns.klass, value, taken, waived))
        elif columns:
            try:  # noqa: SIM105 - this is done for every reason there is, and `suppress` takes as long as all
                units += int(value)
            except ValueError:
                pass  # the ledger refuses the line
            reasons.append(b"%b%b\t%b\n" % (place, columns, value))
        else:
            alone += 1
    if alone:  # units of a method without its calls: a part of the hash is gone
        snapshot = read_hash(key_id, day, pairs)
        snapshot.buckets = dict(buckets or {})
        return lines_of(snapshot)
    used, back = get(b"used", b"0"), get(b"back", b"0")
    first = get(b"first")
    first_at = NULL if first is None else _instant(int(first))
    return DayLines(
        key_id,
        day,
        b"%b\t%b\t%b\t%b\t%b%b\n" % (place, used, back, first_at, _window(buckets), _arrays(methods)),
        b"".join(reasons),
        not (methods or reasons) and int(used) == int(back) == 0,
        units,
    )


def lines_of(snapshot: Snapshot) -> DayLines:
    """Return the lines of a snapshot."""
    place = _place(snapshot.key_id, snapshot.day)
    methods: list[_Line] = [
        (name, _quoted(name[0]), _quoted(name[1]), b"%d" % calls, b"%d" % taken, b"%d" % waived)
        for name, (calls, taken, waived) in snapshot.methods.items()
    ]
    reasons = [b"%b%b\t%d\n" % (place, _text(*reason), units) for reason, units in snapshot.reasons.items()]
    first_at = NULL if snapshot.first_at is None else str(snapshot.first_at).encode()
    window = _window(snapshot.buckets if snapshot.rolling else None)
    numbers = (snapshot.used, snapshot.back)
    return DayLines(
        snapshot.key_id,
        snapshot.day,
        b"%b\t%d\t%d\t%b\t%b%b\n" % (place, *numbers, first_at, window, _arrays(methods)),
        b"".join(reasons),
        snapshot.is_empty,
        sum(snapshot.reasons.values()),
    )


# A method and its class, the same as elements of arrays, and calls, units taken and units waived.
_Line = tuple[Method, bytes, bytes, bytes, bytes, bytes]


def _arrays(lines: list[_Line]) -> bytes:
    """Return the five arrays of methods, each with a tab before it.

    They are in the order of names, so that the same methods always make the same arrays.
    """
    if not lines:
        return b"\t{}" * 5
    lines.sort()
    _, methods, classes, calls, taken, waived = zip(*lines, strict=True)
    return b"\t{%b}\t{%b}\t{%b}\t{%b}\t{%b}" % (
        b",".join(methods),
        b",".join(classes),
        b",".join(calls),
        b",".join(taken),
        b",".join(waived),
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


def _text(*names: str) -> bytes:
    """Return columns of text, each with a tab before it."""
    return "".join(f"\t{name.translate(_ESCAPES)}" for name in names).encode()


def _quoted(name: str) -> bytes:
    """Return a name as an element of an array, which is quoted before COPY's own signs are."""
    plain = name.translate(_ARRAY_ESCAPES).translate(_ESCAPES)
    return f'"{plain}"'.encode()


@dataclass(frozen=True, slots=True)
class _MethodColumns:
    """The fields of a method's units, taken and waived, and what the ledger's line says of it."""

    taken: bytes
    waived: bytes
    order: Method
    method: bytes
    klass: bytes


_Columns = _MethodColumns | bytes | None
_OF_A_METHOD = b""


class _ColumnsByName(dict[bytes, _Columns]):
    """What becomes of a hash's fields; few are different, and they come again for every key.

    A reason: its columns. Units of a method, which are written with its calls: nothing. What the ledger's
    lines do not tell: None.
    """

    def __missing__(self, raw: bytes) -> _Columns:
        if len(self) >= _NAMES_MAX:
            self.clear()
        found = self[raw] = _columns_of(raw)
        return found


def _columns_of(raw: bytes) -> _Columns:
    prefix, colon, rest = raw.partition(b":")
    if prefix == _CALLS and colon:
        method, _, klass = rest.decode().rpartition("|")
        names = (_TAKEN + b":" + rest, _WAIVED + b":" + rest)
        return _MethodColumns(*names, (method, klass), _quoted(method), _quoted(klass))
    if prefix in (_TAKEN, _WAIVED) and colon:
        return _OF_A_METHOD
    reason = reason_of(raw.decode())
    return None if reason is None else _text(*reason)


_COLUMNS = _ColumnsByName()
