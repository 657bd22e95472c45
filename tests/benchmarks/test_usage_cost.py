from __future__ import annotations

import sys

import pytest

from benchmarks import usage_cost


def test_a_small_month_is_filled_in_and_paged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each list is paged by what was filled in, which the benchmark compares, and its times are told."""
    monkeypatch.setattr(sys, "argv", ["usage_cost", "60"])
    usage_cost.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert "60 keys, 37,200 rows" in lines[0]
    assert len(lines) == 9
    assert all("median" in line for line in lines[1:])
