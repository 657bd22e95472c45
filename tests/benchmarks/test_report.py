"""The report forms ratios within rounds and shows every difference of a count."""

from __future__ import annotations

from benchmarks.load import Load
from benchmarks.report import Account, Figures, Turn, account_lines, ratio_lines
from benchmarks.workloads import WORKLOADS


def turn(rate: float, cpu_s: float = 1.0) -> Turn:
    """Return a turn of one second at a rate."""
    load = Load(answered=int(rate), failed=0, seconds=1.0, p50_ms=1, p99_ms=2, p999_ms=3)
    return Turn(load, cpu_s=cpu_s, memory_bytes=0, strangers=0.0)


def test_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    """A machine that slows down for a whole round does not change the ratio of that round."""
    figures = Figures(
        WORKLOADS[0],
        {"ours": [turn(300), turn(200), turn(1000)], "theirs": [turn(100), turn(100), turn(100)]},
        {},
    )
    assert figures.ratios("ours", "theirs", lambda each: each.load.rate) == [3.0, 2.0, 10.0]
    line = ratio_lines(figures, "ours", {"theirs": 3.5}).splitlines()[1]
    assert line.split()[-3:] == ["goal", "3.5:", "MISSED"]
    assert "3.00" in line


def test_cost_ratio_does_not_depend_on_who_else_used_the_core() -> None:
    """Half of a core at half the rate is the same cost per call."""
    figures = Figures(WORKLOADS[0], {"ours": [turn(100, cpu_s=0.5)], "theirs": [turn(100, cpu_s=1.0)]}, {})
    assert "2.00" in ratio_lines(figures, "ours", {}).splitlines()[1]


def test_differences_of_the_count_are_shown_with_their_sign() -> None:
    """Calls counted but not answered show as positive, calls answered but not counted as negative."""
    account = Account(answered=100, counted_answered=103, reached=50, counted_reached=49)
    assert account.differences == (3, -1)
    figures = Figures(WORKLOADS[0], {}, {"ours": account})
    assert account_lines(figures).splitlines()[1].split()[1:] == ["100", "103", "3", "50", "49", "-1"]
