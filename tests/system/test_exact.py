"""Exact counts over several workers: limits, and what is left after one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import Iterator

import pytest

from tests.serving import Serving, serving, wait_until, write_config
from tests.system.traffic import METHOD, Seen, calls, counted, new_key, reached


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A program with two workers."""
    with serving(write_config(tmp_path_factory.mktemp("exact"), workers=2)) as running:
        yield running


@pytest.mark.parametrize("window", ["day", "rolling_24h"])
async def test_a_limit_of_a_hundred_lets_a_hundred_of_a_thousand_through(
    program: Serving, window: str
) -> None:
    """Two workers, 100 connections, 1,000 calls at once: 100 reach the upstream, 900 get CallLimit."""
    key_id, key = await asyncio.to_thread(new_key, program, daily_limit=100, window=window)
    before = (await asyncio.to_thread(reached, program))["methods"].get(METHOD, 0)
    seen = Seen()
    never = asyncio.Event()
    await asyncio.gather(*(calls(program.proxy_port, key, seen, count=10, until=never) for _ in range(100)))
    assert dict(seen.codes) == {"Ok": 100, "CallLimit": 900}
    assert (await asyncio.to_thread(reached, program))["methods"][METHOD] - before == 100
    assert await asyncio.to_thread(counted, program, key_id, live=True) == {"taken": 100, "waived": 0}
    reasons = await asyncio.to_thread(program.control, "GET", f"/v1/usage/reasons?key={key_id}&live=true")
    assert [(row["effect"], row["reason"], row["units"]) for row in reasons["items"]] == [
        ("denied", "quota_exceeded", 900)
    ]


async def test_both_workers_take_part(program: Serving) -> None:
    """A hundred connections are shared out, so what the others show is not one worker's doing alone."""
    _, key = await asyncio.to_thread(new_key, program)
    seen, never = Seen(), asyncio.Event()
    await asyncio.gather(*(calls(program.proxy_port, key, seen, count=2, until=never) for _ in range(100)))
    assert seen.answered == 200
    figures = await asyncio.to_thread(_figures, program)
    workers = {
        line.split('worker="')[1][0]
        for line in figures.splitlines()
        if line.startswith("tallygate_calls_total{") and "CallLimit" not in line
    }
    assert workers == {"0", "1"}


def _figures(program: Serving) -> str:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{program.control_port}/metrics",
        headers={"Authorization": f"Bearer {program.token}"},
    )
    with urllib.request.urlopen(asked) as answer:  # noqa: S310 - our own
        return str(answer.read().decode())


async def test_a_killed_worker_loses_no_answered_call_and_doubles_none(program: Serving) -> None:
    """Killed under load: the ledger holds every answered call, and nothing beyond those attempted.

    What is counted and was not answered was under way when its worker died: at most one call a connection.
    """
    connections, kills = 32, 3
    key_id, key = await asyncio.to_thread(new_key, program)
    seen = Seen()
    done = asyncio.Event()
    load = [asyncio.create_task(calls(program.proxy_port, key, seen, until=done)) for _ in range(connections)]
    for _ in range(kills):
        target = seen.answered + 300
        while seen.answered < target:
            await asyncio.sleep(0.02)
        workers = await asyncio.to_thread(program.workers)
        os.kill(workers[0], signal.SIGKILL)

        def replaced(dead: int = workers[0]) -> bool:
            now = program.workers()
            return len(now) == 2 and dead not in now

        await asyncio.to_thread(wait_until, replaced)
    target = seen.answered + 300
    while seen.answered < target:
        await asyncio.sleep(0.02)
    done.set()
    await asyncio.gather(*load)
    ledgers = []
    for _ in range(3):
        await asyncio.to_thread(program.control, "POST", "/v1/rollup")
        ledgers.append(await asyncio.to_thread(counted, program, key_id, live=False))
    ledgers.append(await asyncio.to_thread(counted, program, key_id, live=True))
    assert ledgers == [ledgers[0]] * 4
    billable = ledgers[0]["taken"] - ledgers[0]["waived"]
    assert set(seen.codes) == {"Ok"}
    assert seen.answered <= billable <= seen.attempted
    assert billable - seen.answered <= connections * kills
    assert seen.attempted - seen.answered > 0, "no call was under way when a worker died"
