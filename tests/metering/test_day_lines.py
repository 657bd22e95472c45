"""How a key's day becomes lines for the ledger."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import day_lines
from metering.day_lines import DayLines, lines_of, lines_of_hash
from metering.snapshot import read_hash
from tests.metering.samples import KEY, TODAY

PLACE = f"{KEY}\t{TODAY}\t".encode()
FIRST = 1_795_262_400_500


def pairs_of(counts: Mapping[str, int]) -> list[bytes]:
    """Names and values in turn, as Redis gives them."""
    return [part for name, value in counts.items() for part in (name.encode(), str(value).encode())]


def both(counts: Mapping[str, int], buckets: dict[str, int] | None = None) -> tuple[DayLines, DayLines]:
    """The lines of a hash, straight and by way of its snapshot, with those of reasons in order."""
    pairs = pairs_of(counts)
    snapshot = read_hash(KEY, TODAY, pairs)
    snapshot.buckets, snapshot.rolling = buckets or {}, buckets is not None
    told = lines_of_hash(KEY, TODAY, pairs, buckets), lines_of(snapshot)
    for lines in told:
        lines.reasons = b"".join(sorted(lines.reasons.splitlines(keepends=True)))
        # PostgreSQL reads both ways to write an instant.
        lines.facts = lines.facts.replace(b".500000+00:00", b".500+00")
    return told


def test_each_table_gets_its_columns() -> None:
    """The facts of the day, methods with three numbers, reasons and their sum; batch numbers are none."""
    counts = {
        "used": 9,
        "c:GetItem|item": 3,
        "bt:w0": 7,
        "t:GetItem|item": 9,
        "w:GetItem|item": 2,
        "c:Find|search": 1,
        "c:Find|item": 4,
        "back": 2,
        "v:error_code": 2,
        "d:quota_exceeded": 4,
        "first": FIRST,
        "rolling": 1,
    }
    lines = lines_of_hash(KEY, TODAY, pairs_of(counts), {"100": 3})
    assert lines.reasons.splitlines() == [
        PLACE + b"waived\terror_code\t2",
        PLACE + b"denied\tquota_exceeded\t4",
    ]
    assert lines.facts == PLACE + (
        b'9\t2\t2026-11-21 12:00:00.500+00\t{"100": 3}\t{"Find","Find","GetItem"}\t{"item","search","item"}'
        b"\t{4,1,3}\t{0,0,9}\t{0,0,2}\t6\tf\n"
    )
    assert not lines.is_empty


def test_missing_hash_is_an_empty_day() -> None:
    """No hash reads as a day on which nothing happened."""
    straight, by_snapshot = both({})
    assert straight == by_snapshot
    assert straight.is_empty
    assert straight.facts == PLACE + b"0\t0\t\\N\t\\N\t{}\t{}\t{}\t{}\t{}\t0\tt\n"


def test_units_without_their_calls_are_told_too() -> None:
    """A hash that lost the calls of a method still tells the units that it has."""
    for counts, arrays in (
        ({"t:GetItem|item": 4}, rb'{"GetItem"}\t{"item"}\t{0}\t{4}\t{0}'),
        (
            {"w:GetItem|item": 4, "c:Other|item": 1, "t:Other|item": 1},
            rb'{"GetItem","Other"}\t{"item","item"}\t{0,1}\t{0,1}\t{4,0}',
        ),
    ):
        straight, by_snapshot = both(counts | {"rolling": 1}, {"7": 1})
        assert straight == by_snapshot
        assert straight.facts.endswith(arrays.replace(rb"\t", b"\t") + b"\t0\tf\n")


def test_names_cannot_break_out_of_their_column() -> None:
    """Tabs, ends of lines, quotes and backslashes in a method's name are written as COPY reads them."""
    lines = lines_of_hash(KEY, TODAY, pairs_of({'c:a\tb\nc\\d"\r|item': 1}), None)
    name = rb'{"a\tb\nc\\\\d\\"\r"}'
    assert lines.facts == PLACE + b"0\t0\t\\N\t\\N\t" + name + b'\t{"item"}\t{1}\t{0}\t{0}\t0\tf\n'


def test_what_is_remembered_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names without end do not fill the memory."""
    monkeypatch.setattr(day_lines, "_NAMES_MAX", 10)
    for number in range(100):
        lines_of_hash(KEY, TODAY, [b"c:Method%d|item" % number, b"1"], None)
    assert 0 < len(day_lines._FIELDS) <= 10


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
FIELDS = st.one_of(
    st.tuples(st.sampled_from("ctw"), NAMES, st.sampled_from(["item", "search"])).map(
        lambda parts: f"{parts[0]}:{parts[1]}|{parts[2]}"
    ),
    st.tuples(st.sampled_from("dv"), NAMES).map(":".join),
    st.sampled_from(["used", "back", "bt:w0-1", "bs:w0-1"]),
)


@given(counts=st.dictionaries(FIELDS, st.integers(0, 2**63 - 1)), first=st.booleans(), rolling=st.booleans())
def test_straight_lines_are_those_of_the_snapshot(counts: dict[str, int], first: bool, rolling: bool) -> None:
    """Whatever a hash holds, its lines are the same as by way of its numbers."""
    more = {"first": FIRST} if first else {}
    more |= {"rolling": 1} if rolling else {}
    straight, by_snapshot = both(counts | more, {"7": 1} if rolling else None)
    assert straight == by_snapshot
