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

from metering.snapshot import METHOD_PREFIXES, Snapshot, read_hash, reason_of

NULL = rb"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NAMES_MAX = 100_000
_CALLS, _TAKEN, _WAIVED = (prefix.encode() for prefix in METHOD_PREFIXES)


@dataclass(slots=True)
class DayLines:
    """What the ledger's tables get of a key's day, as lines of text: none where there is nothing."""

    key_id: str
    day: date
    methods: bytes  # of `usage_daily`
    reasons: bytes  # of `usage_reasons_daily`
    facts: bytes  # of `key_days`
    is_empty: bool  # whether nothing was ever counted here
    numbers: int  # of the methods' lines, added up
    units: int  # of the reasons' lines, added up

    @property
    def facts_with_sums(self) -> bytes:
        """The line of `key_days` with two columns more: the sums."""
        return b"%b\t%d\t%d\n" % (self.facts[:-1], self.numbers, self.units)


def lines_of_hash(
    key_id: str, day: date, pairs: Sequence[bytes], buckets: Mapping[str, int] | None
) -> DayLines:
    """Return the lines of a day's hash (names and values in turn); `buckets` are None without a window."""
    counters = dict(zip(pairs[::2], pairs[1::2], strict=True))
    get = counters.get
    place = _place(key_id, day)
    methods, reasons = [], []
    alone = numbers = units = 0
    for name, value in counters.items():
        columns = _COLUMNS[name]
        if columns is None:
            continue
        taken_name, waived_name, text = columns
        if taken_name:
            taken, waived = get(taken_name), get(waived_name)
            if taken is None:
                taken = b"0"
            else:
                alone -= 1
            if waived is None:
                waived = b"0"
            else:
                alone -= 1
            methods.append(b"%b%b\t%b\t%b\t%b\n" % (place, text, value, taken, waived))
            try:  # noqa: SIM105 - this is done for every number there is, and `suppress` takes as long as all
                numbers += int(value) + int(taken) + int(waived)
            except ValueError:
                pass  # the ledger refuses the line
        elif text:
            try:  # noqa: SIM105 - as above
                units += int(value)
            except ValueError:
                pass
            reasons.append(b"%b%b\t%b\n" % (place, text, value))
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
        b"".join(methods),
        b"".join(reasons),
        b"%b\t%b\t%b\t%b\t%b\n" % (place, used, back, first_at, _window(buckets)),
        not (methods or reasons) and int(used) == int(back) == 0,
        numbers,
        units,
    )


def lines_of(snapshot: Snapshot) -> DayLines:
    """Return the lines of a snapshot."""
    place = _place(snapshot.key_id, snapshot.day)
    methods = [
        b"%b%b\t%d\t%d\t%d\n" % (place, _text(*method), calls, taken, waived)
        for method, (calls, taken, waived) in snapshot.methods.items()
    ]
    reasons = [b"%b%b\t%d\n" % (place, _text(*reason), units) for reason, units in snapshot.reasons.items()]
    first_at = NULL if snapshot.first_at is None else str(snapshot.first_at).encode()
    buckets = snapshot.buckets if snapshot.rolling else None
    return DayLines(
        snapshot.key_id,
        snapshot.day,
        b"".join(methods),
        b"".join(reasons),
        b"%b\t%d\t%d\t%b\t%b\n" % (place, snapshot.used, snapshot.back, first_at, _window(buckets)),
        snapshot.is_empty,
        sum(map(sum, snapshot.methods.values())),
        sum(snapshot.reasons.values()),
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


_Columns = tuple[bytes, bytes, bytes] | None
_OF_A_METHOD: _Columns = (b"", b"", b"")


class _ColumnsByName(dict[bytes, _Columns]):
    """What becomes of a hash's fields; few are different, and they come again for every key.

    A method's calls: the names of its units, taken and waived, and its columns. A reason: its columns alone.
    Units of a method, which are written with its calls: nothing. What the ledger's lines do not tell: None.
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
        return _TAKEN + b":" + rest, _WAIVED + b":" + rest, _text(method, klass)
    if prefix in (_TAKEN, _WAIVED) and colon:
        return _OF_A_METHOD
    reason = reason_of(raw.decode())
    return None if reason is None else (b"", b"", _text(*reason))


_COLUMNS = _ColumnsByName()
