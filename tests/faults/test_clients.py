"""Clients that leave, by the thousand: no answer reaches another one, and the pools return to idle."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.load import CLIENT_FAULTS
from tests.faults.stage import Stage
from tests.faults.trial import under_load
from tests.serving import wait_until


@pytest.mark.deep
async def test_ten_thousand_cancelled_calls(tmp_path: Path) -> None:
    """Clients leave before the answer, in its middle, or half-way through the request; nothing is left."""
    async with under_load(tmp_path, connections=32) as trial:
        before = trial.load.attempted
        trial.load.arm(CLIENT_FAULTS[0], 9_000)
        trial.load.arm(CLIENT_FAULTS[2], 1_000)
        trial.load.arm(CLIENT_FAULTS[1], 100)
        async with asyncio.timeout(600):
            while trial.load.armed:
                await asyncio.sleep(0.1)
        assert trial.load.attempted >= before + 10_100
        assert sum(trial.load.struck.values()) == 10_100
        await trial.rest()
        await asyncio.to_thread(wait_until, lambda: not busy(trial.stage), 60.0)


def busy(stage: Stage) -> list[str]:
    """Return the figures of calls and connections that are in use."""
    names = ("tallygate_calls_in_flight", "tallygate_upstream_waiting", "tallygate_client_connections")
    found = []
    for line in stage.program.control_text("/metrics").splitlines():
        is_busy = line.startswith("tallygate_upstream_connections{") and 'state="busy"' in line
        if (line.startswith(names) or is_busy) and float(line.rsplit(" ", 1)[1]):
            found.append(line)
    return found
