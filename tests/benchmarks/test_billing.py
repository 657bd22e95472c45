from __future__ import annotations

import pytest

from benchmarks import billing


def test_a_small_month_is_closed_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark bills every unit that it filled in, and tells seconds and memory."""
    assert billing.main(["--accounts", "30"]) == 0
    out = capsys.readouterr().out
    assert "30 accounts, 3,000 rows of usage" in out
    assert "units counted: equal" in out
    assert "closed in" in out
    assert "MiB" in out
