"""The benchmark's own load and upstream agree on every call that was made."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks import load, nginx
from benchmarks.drive import drive
from benchmarks.origin import Origin
from benchmarks.workloads import WORKLOADS, Workload, request_of

CALLS = 500


@pytest.mark.parametrize("workload", WORKLOADS[:3], ids=lambda workload: workload.name)
def test_own_load_makes_exactly_the_calls_it_reports(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that was asked for is answered, and the asyncio upstream has seen that many."""
    monkeypatch.setattr(nginx, "binary", lambda: None)
    cores = frozenset(os.sched_getaffinity(0))
    with Origin(workload.answer_bytes, cores, tmp_path) as origin:
        request = request_of(workload, "imported-key")
        measured = load.drive(origin.port, request, workload, cores, calls=CALLS)
        assert (measured.answered, measured.failed) == (CALLS, 0)
        assert origin.calls() == CALLS
        assert 0 < measured.p50_ms <= measured.p99_ms


def test_own_load_tells_a_refusal_from_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose code is not Ok counts as failed, although its HTTP status is 200."""
    monkeypatch.setattr(nginx, "binary", lambda: None)
    monkeypatch.setattr("benchmarks.drive._OK", b'{"ErrorCode":"No"')
    cores = frozenset(os.sched_getaffinity(0))
    with Origin(400, cores, tmp_path) as origin:
        request = load.wire(request_of(WORKLOADS[0], "imported-key"), origin.port)
        figures = asyncio.run(
            drive(origin.port, request, variants=1, keys=1, connections=2, seconds=0, calls=10)
        )
        assert (figures["answered"], figures["failed"]) == (0, 10)


def test_calls_at_a_rate_come_when_they_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 200 calls a second for half a second about 100 are made, none of them early, all answered."""
    monkeypatch.setattr(nginx, "binary", lambda: None)
    cores = frozenset(os.sched_getaffinity(0))
    with Origin(400, cores, tmp_path) as origin:
        request = request_of(WORKLOADS[0], "imported-key")
        measured = load.drive(origin.port, request, WORKLOADS[0], cores, seconds=0.5, rate=200)
        assert measured.failed == 0
        assert 50 <= measured.answered <= 101
        assert origin.calls() == measured.answered
