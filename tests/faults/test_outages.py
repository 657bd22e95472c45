"""A store away, stopped, killed or refusing, under load: what clients see, and that each call is counted.

Bounds on time here are guards against a hang; what was measured is printed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.faults.history import End
from tests.faults.kinds import REPLIES, Faults
from tests.faults.stage import Stage
from tests.faults.trial import WORKERS, Trial, under_load
from tests.serving import wait_until

pytestmark = pytest.mark.deep
AWAY_S = float(os.environ.get("TALLYGATE_AWAY_S", "60"))  # of the long outage


@pytest.mark.parametrize("stopped_s", [1.0, 3.0, 10.0])
async def test_redis_stopped_under_load(tmp_path: Path, stopped_s: float) -> None:
    """Calls wait or are refused while Redis is stopped, none hangs, and they go on when it does."""
    async with under_load(tmp_path) as trial:
        trial.stage.valkey.send(signal.SIGSTOP)
        await asyncio.sleep(stopped_s)
        trial.stage.valkey.send(signal.SIGCONT)
        first_s = await trial.more(200)
        print(f"first answer {first_s:.2f} s after Redis went on; refused: {dict(trial.load.refusals)}")
    assert first_s < 20


async def test_redis_killed_under_load(tmp_path: Path) -> None:
    """Twenty times kill -9, with the append-only file on: 0 answered calls are lost."""
    async with under_load(tmp_path, redis_timeout_s="0.25") as trial:
        for _ in range(20):
            await asyncio.to_thread(trial.stage.valkey.kill)
            await asyncio.to_thread(trial.stage.valkey.start)
            await trial.more(200)


@pytest.mark.parametrize("error", [*REPLIES, "NOSCRIPT"])
async def test_redis_that_refuses_under_load(tmp_path: Path, error: str) -> None:
    """Every kind of refusal of Redis is one failure to clients, and is over when Redis is."""
    async with under_load(tmp_path) as trial:
        recovered = []
        for _ in range(5):
            if error == "NOSCRIPT":
                faults = Faults(trial.stage, trial.load, trial.seed)
                faults.inject("redis NOSCRIPT")
                await asyncio.sleep(0.2)
                assert not faults.waiting
                await faults.close()
            else:
                trial.stage.redis.error = REPLIES[error]
                await asyncio.sleep(1.0)
                trial.stage.redis.error = None
            recovered.append(await trial.more(100))
        print(f"{error}: first answers after {', '.join(f'{each:.2f}' for each in recovered)} s")
    assert max(recovered) < 20
    assert all(each.startswith("200 NotAvailable") for each in trial.load.refusals)


@pytest.mark.parametrize("open_route", [False, True])
async def test_redis_away_for_a_minute(tmp_path: Path, open_route: bool) -> None:
    """A minute without Redis: closed routes refuse at once, open ones go on, and the bill is exact."""
    settings = {"on_counter_failure": '"open"', "open_allowance": "1000000"} if open_route else {}
    async with under_load(tmp_path, connections=60, **settings) as trial:
        load = trial.load
        load.pause_s, load.took = 0.11, []  # some 500 calls a second
        await asyncio.sleep(AWAY_S / 10)
        gone = time.time()
        await asyncio.to_thread(trial.stage.valkey.kill)
        await asyncio.sleep(AWAY_S)
        back = time.time()
        await asyncio.to_thread(trial.stage.valkey.start)
        first_s = await trial.more(200)
        settled = gone + AWAY_S / 6  # the breaker has opened
        told = [
            f"{name}: " + _spread([took for at, took, end in load.took if first <= at < last and end in ends])
            for name, first, last, ends in (
                ("before", 0.0, gone, (End.ANSWERED, End.FREE)),
                ("answered meanwhile", settled, back, (End.ANSWERED, End.FREE)),
                ("refused meanwhile", settled, back, (End.REFUSED,)),
            )
        ]
        print("\n".join([*told, f"first answer {first_s:.2f} s after Redis was back"]))
        meanwhile = [end for began, _, end in load.took if settled <= began < back]
    assert meanwhile.count(End.REFUSED) > 0
    assert (meanwhile.count(End.ANSWERED) > 0) == open_route
    assert not any(each.startswith(("401", "403", "429", "500")) for each in load.refusals)


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    median, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
    return (
        f"{len(ordered):,} calls, median {median:.1f} ms, p99 {p99:.1f} ms, most {ordered[-1] * 1000:.0f} ms"
    )


async def test_the_ledger_away_under_load(tmp_path: Path) -> None:
    """Without PostgreSQL no call fails; when it is back the roll-up catches up by itself."""
    async with under_load(tmp_path) as trial:
        await asyncio.to_thread(trial.stage.postgres.kill)
        failed = trial.load.seen.total(End.REFUSED, End.IN_DOUBT)
        await trial.more(2_000)
        await asyncio.sleep(10)
        assert trial.load.seen.total(End.REFUSED, End.IN_DOUBT) == failed
        await asyncio.to_thread(trial.stage.postgres.start)
        await asyncio.to_thread(wait_until, lambda: trial.stage.program.units(live=False) > 2_000, 60.0)


async def test_workers_killed_twenty_times_under_load(tmp_path: Path) -> None:
    """The supervisor brings each worker back; nothing answered is lost, nothing is counted twice."""
    async with under_load(tmp_path) as trial:
        faults = Faults(trial.stage, trial.load, trial.seed)
        for _ in range(20):
            faults.inject("worker killed")
        async with asyncio.timeout(300):
            while faults.waiting:
                await asyncio.sleep(0.1)
        await faults.close()
        assert faults.errors == []
        await trial.more(200)
    assert faults.struck["worker killed"] == 20
    assert trial.accounts is not None
    print(f"waivers that died with their worker: {trial.accounts.charged_too_much}")


@pytest.mark.parametrize("how", ["empty", "older"])
async def test_redis_back_without_its_newest_data(tmp_path: Path, how: str) -> None:
    """What the ledger has is raised again, once, and a metric tells of it; calls are counted on top."""
    data, older = tmp_path / "stores" / "valkey", tmp_path / "older"
    async with under_load(tmp_path) as trial:
        made, valkey = trial.stage, trial.stage.valkey
        await _rolled_up(trial)
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(shutil.copytree, data, older)
        await asyncio.to_thread(valkey.start)
        trial.call()
        await trial.more(300)
        await _rolled_up(trial)
        before = await asyncio.to_thread(made.program.units, live=False)
        told = await asyncio.to_thread(alarms, made)
        await asyncio.to_thread(valkey.kill)
        await asyncio.to_thread(shutil.rmtree, data)
        if how == "older":
            await asyncio.to_thread(shutil.copytree, older, data)
        await asyncio.to_thread(valkey.start)
        await asyncio.to_thread(wait_until, lambda: alarms(made) > told, 60.0)
        await asyncio.to_thread(wait_until, lambda: made.program.units() == before, 60.0)
        trial.call()
        await trial.more(300)


async def _rolled_up(trial: Trial) -> None:
    """Let the calls rest, and bring what was counted into the ledger."""
    await trial.rest()
    await trial.stage.settle(WORKERS)
    await trial.stage.control("POST", "/v1/rollup", {})


def alarms(stage: Stage) -> float:
    """Return how often the loss was told by a metric."""
    text = stage.program.control_text("/metrics")
    wanted = ("tallygate_rebuilds_total", "tallygate_counters_raised_total")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(wanted))
