"""How the whole gateway does, as `/readyz` and the figures tell it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import TestClient

from gateway import run_state
from gateway.control import condition
from gateway.control.resources import Control
from gateway.run_state import ProcessState, RunState
from gateway.telemetry import WorkerMetricsCollector
from metering.journal import SUFFIX, encode_header
from metering.open_calls import DIRECTORY
from tests.gateway.control.conftest import Api, Clock, Uptime


async def reasons(client: TestClient[Any, Any]) -> dict[str, str]:
    """What is wrong, by its name; whatever it is, this process is ready."""
    answer = await Api(client, None).get("/readyz")
    assert answer.status == 200
    assert answer.body["status"] == ("degraded" if answer.body["reasons"] else "ready")
    return {each["what"]: each["detail"] for each in answer.body["reasons"]}


@asynccontextmanager
async def worker(run_dir: Path, index: int, figures: object) -> AsyncIterator[None]:
    """A worker that tells these figures to whoever asks."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(figures).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path=run_dir / f"worker-{index}.sock")
    yield
    server.close()
    await server.wait_closed()


@pytest.fixture
def run_dir(tmp_path: Path, control: Control) -> Path:
    """A run directory that the control process looks into."""
    place = tmp_path / "run"
    place.mkdir()
    control.workers = WorkerMetricsCollector(place)
    return place


async def test_jobs_that_do_not_succeed_are_late(
    client: TestClient[Any, Any], admin: Api, clock: Clock, uptime: Uptime
) -> None:
    """A minute after its last success the roll-up or the projection is a reason, until it succeeds."""
    assert await reasons(client) == {}
    uptime.seconds += condition.LATE_S + 1
    assert await reasons(client) == {
        "rollup_late": "The last roll-up was 61 s ago.",
        "projection_late": "Changed keys were last carried to Redis 61 s ago.",
    }
    figures = (await admin.get("/metrics")).text
    assert 'tallygate_degraded{reason="rollup_late"} 1.0' in figures
    assert 'tallygate_degraded{reason="redis_away"} 0.0' in figures
    assert "tallygate_rollup_age_seconds 61.0" in figures
    assert (await admin.post("/v1/rollup")).status == 200
    assert set(await reasons(client)) == {"projection_late"}
    figures = (await admin.get("/metrics")).text
    assert 'tallygate_degraded{reason="rollup_late"} 0.0' in figures
    (line,) = re.findall(r'tallygate_job_success_timestamp_seconds\{job="rollup"\} (.+)', figures)
    assert float(line) == clock()


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_step_of_the_clock_makes_no_job_late_or_new(
    client: TestClient[Any, Any], clock: Clock, uptime: Uptime, step: timedelta
) -> None:
    """Set forward it is no reason, and set back it hides none: how long ago something was does not change."""
    clock.now += step
    assert await reasons(client) == {}
    uptime.seconds += condition.LATE_S + 1
    assert set(await reasons(client)) == {"rollup_late", "projection_late"}


async def test_workers_that_are_not_at_work_are_named(
    client: TestClient[Any, Any], admin: Api, run_dir: Path
) -> None:
    """One that starts and one that does not answer are reasons; how often each died is a figure."""
    state = RunState(
        workers=(
            ProcessState("worker 0", 11, "ready", 0),
            ProcessState("worker 1", None, "down", 3),
        )
    )
    await asyncio.to_thread(run_state.write, run_dir, state)
    (run_dir / "worker-2.sock").touch()
    async with worker(run_dir, 0, {}):
        assert await reasons(client) == {"worker_down": "Not at work: worker 1, worker 2."}
        figures = (await admin.get("/metrics")).text
    assert 'tallygate_worker_restarts_total{worker="0"} 0.0' in figures
    assert 'tallygate_worker_restarts_total{worker="1"} 3.0' in figures


async def test_a_worker_that_cannot_count_is_a_reason(client: TestClient[Any, Any], run_dir: Path) -> None:
    """Its own breaker tells, even while the control process reaches Redis."""
    available = {"gauges": {"tallygate_counter_available": [[{}, 1]]}}
    away = {"gauges": {"tallygate_counter_available": [[{}, 0]]}}
    async with worker(run_dir, 0, available), worker(run_dir, 1, away):
        found = await reasons(client)
    assert set(found) == {"counting_away"}
    assert "worker 1:" in found["counting_away"]


class Disk(NamedTuple):
    total: int
    used: int
    free: int


async def test_a_disk_that_is_nearly_full_is_a_reason(
    client: TestClient[Any, Any], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than a twentieth free is told ahead of the end."""
    disk = Disk(1 << 40, (1 << 40) - (1 << 30), 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    assert await reasons(client) == {"disk_nearly_full": "1024 MiB are free on the data directory's disk."}


async def test_journals_that_wait_are_a_reason(client: TestClient[Any, Any], control: Control) -> None:
    """What was let through in an outage and is not counted yet is told until it is brought in."""
    place = control.settings.stores.data_dir / DIRECTORY
    place.mkdir(parents=True)
    (place / f"left{SUFFIX}").write_bytes(encode_header("left"))
    assert set(await reasons(client)) == {"journals_waiting"}
