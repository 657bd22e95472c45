"""Minutes under load with keys that come and go: memory, descriptors and series do not grow."""

from __future__ import annotations

import asyncio
import os
import statistics
from pathlib import Path

import psutil
import pytest

from tests.faults.stage import Stage
from tests.faults.trial import under_load

SOAK_S = float(os.environ.get("TALLYGATE_SOAK_S", "600"))
KEYS, USED = 600, 40  # all there are, and at a time
LOOKS = 60
MIB = 1 << 20
GROWTH_MAX_BYTES = 8 * MIB  # of a process after the first half, within the second


@pytest.mark.deep
async def test_nothing_grows(tmp_path: Path) -> None:
    """Workers that remember 100 of 600 keys, under load for minutes: memory, descriptors and series stay.

    TALLYGATE_SOAK_S says for how long, 600 s by default.
    """
    async with under_load(tmp_path, keys=KEYS, connections=24, cached_keys="100") as trial:
        looks: list[dict[str, tuple[int, int]]] = []
        series: list[int] = []
        for look in range(LOOKS):
            trial.load.use(look * USED % KEYS, USED)
            await asyncio.sleep(SOAK_S / LOOKS)
            looks.append(await asyncio.to_thread(figures, trial.stage))
            text = await asyncio.to_thread(trial.stage.program.control_text, "/metrics")
            series.append(sum(not line.startswith("#") for line in text.splitlines()))
    late = looks[LOOKS // 2 :]
    told = []
    for name in looks[0]:
        memory = [look[name][0] for look in late]
        slope = statistics.linear_regression([*range(len(memory))], memory).slope * (LOOKS / SOAK_S) * 60
        files = [look[name][1] for look in looks]
        told.append(
            f"{name}: {looks[0][name][0] / MIB:.1f} MiB at first, {memory[0] / MIB:.1f} at half, "
            f"{memory[-1] / MIB:.1f} at last, {slope / MIB:+.3f} MiB a minute; "
            f"descriptors {files[0]} to {files[-1]}, at most {max(files)}"
        )
    told.append(f"series {series[0]} to {series[-1]}")
    print("\n".join(told))
    for name in looks[0]:
        assert late[-1][name][0] - late[0][name][0] < GROWTH_MAX_BYTES, told
        assert (
            max(look[name][1] for look in late) <= max(look[name][1] for look in looks[: LOOKS // 2]) + 8
        ), told
    assert series[-1] <= max(series[: LOOKS // 2]), told


def figures(stage: Stage) -> dict[str, tuple[int, int]]:
    """Return resident bytes and open descriptors of each of the program's processes."""
    found = {}
    for name, process in {
        **stage.program.family(),
        "supervisor": psutil.Process(stage.program.process.pid),
    }.items():
        if name.startswith("gateway") or name == "supervisor":
            found[name] = (process.memory_info().rss, process.num_fds())
    return found
