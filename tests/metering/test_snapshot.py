"""How counters are read out of Redis' hashes."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from metering.snapshot import Snapshot, behind, day_text, read_day, read_hash, read_window
from tests.metering.samples import KEY, TODAY


def test_hash_is_read_whole_and_written_by_the_same_names() -> None:
    """What is read from a hash and what goes back into one are the same counters; batch numbers are none."""
    counts = {
        "used": 9,
        "back": 2,
        "c:GET /a|b|item": 3,
        "t:GET /a|b|item": 9,
        "w:GET /a|b|item": 2,
        "v:error_code": 2,
        "d:quota_exceeded": 4,
    }
    extra = {"first": 1_795_262_400_500, "bt:w0-1": 7, "bs:w0-1": 6, "rolling": 1}
    pairs = [
        part for name, value in (counts | extra).items() for part in (name.encode(), str(value).encode())
    ]
    snapshot = read_hash(KEY, TODAY, pairs)
    assert dict(snapshot.fields()) == counts
    assert snapshot.methods == {("GET /a|b", "item"): [3, 9, 2]}
    assert snapshot.reasons == {("waived", "error_code"): 2, ("denied", "quota_exceeded"): 4}
    assert snapshot.first_at == datetime(2026, 11, 21, 12, 0, 0, 500_000, UTC)
    assert snapshot.rolling
    assert not snapshot.is_empty


def test_window_holds_buckets_only() -> None:
    """The bookkeeping beside the buckets is left out."""
    assert read_window([b"100", b"3", b"sum", b"3", b"min", b"100"]) == {"100": 3}


def test_missing_hash_is_empty() -> None:
    """No hash reads as a day on which nothing happened."""
    assert read_hash(KEY, TODAY, []).is_empty


def test_only_lower_counters_are_behind() -> None:
    """A counter is behind when the ledger has more, and not when it has less or the same."""
    seen = Snapshot(KEY, TODAY, used=5, back=1, methods={("m", "k"): [2, 5, 0]})
    ledger = Snapshot(KEY, TODAY, used=5, back=0, methods={("m", "k"): [3, 5, 0], ("n", "k"): [1, 1, 0]})
    assert behind(seen, ledger) == {"c:m|k": (2, 3), "c:n|k": (0, 1), "t:n|k": (0, 1)}


def test_days_are_written_and_read_back() -> None:
    """A day in a name is eight digits, and nothing else is one."""
    assert read_day(day_text(date(2026, 3, 9))) == date(2026, 3, 9)
    for text in ("2026-3-9", "202603", "20261301", "2026030x", ""):
        with pytest.raises(ValueError, match=r"day|month"):
            read_day(text)
