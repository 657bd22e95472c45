"""Whole programs whose Redis goes away: they start without it, let through or refuse, and lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.data_dir import run_directory
from gateway.stores import EmbeddedValkey
from tests import servers
from tests.serving import Serving, _request, change, serving, wait_until, write_config
from tests.system.traffic import Seen, calls, counted, new_key


class OwnRedis:
    """A Valkey beside the program, which may be away."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.store = EmbeddedValkey(directory, run_directory(directory))
        self._running = contextlib.ExitStack()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with what it has on disk."""
        self.process = self._running.enter_context(servers.process(self.store))

    def kill(self) -> None:
        """Kill it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stop it, if it runs."""
        self._running.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Valkey that is not started yet."""
    made = OwnRedis(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture
def open_file(tmp_path: Path, store: OwnRedis) -> Path:
    """A configuration that lets calls through, with a Redis that runs."""
    store.start()
    return configured(tmp_path, store, "open")


def configured(tmp_path: Path, store: OwnRedis, mode: str, workers: int = 2) -> Path:
    """Write a configuration whose OTAPI route has a mode."""
    file = write_config(tmp_path, workers=workers)
    change(
        file,
        redis=f'"{store.store.url}"',
        on_counter_failure=f'"{mode}"',
        redis_timeout_s="0.2",
        counter_deadline_s="0.3",
        rollup_every_s="0.5",
        open_allowance="1000000",
    )
    return file


def code(program: Serving, key: str | None = None) -> str:
    """What a call is answered."""
    return str(program.search(key)["ErrorCode"])


def journals(program: Serving) -> list[Path]:
    """The journals that were not brought in yet."""
    return list((program.data_dir / "journal").glob("*.journal"))


def test_a_program_starts_without_redis_and_goes_on_when_it_comes(tmp_path: Path, store: OwnRedis) -> None:
    """Workers and control API are up and say what is away; calls fail in the dialect, then work."""
    with serving(configured(tmp_path, store, "closed")) as program:
        assert _request(program.control_port, "GET", "/healthz", None, {})[0] == 200
        status, told = _request(program.control_port, "GET", "/readyz", None, {})
        assert json.loads(told)["redis"] == "away"
        assert {code(program) for _ in range(5)} == {"NotAvailable"}
        status, _ = program.request("GET", "/rest/items/1", None, {"X-Api-Key": program.key})
        assert status == 503
        wait_until(lambda: "calls cannot be counted" in program.output)
        store.start()
        wait_until(lambda: code(program) == "Ok")
        wait_until(lambda: "calls are counted again" in program.output)
        store.kill()
        wait_until(lambda: code(program) == "NotAvailable")
        store.start()
        wait_until(lambda: code(program) == "Ok")
        assert "Traceback" not in program.output


async def test_an_open_program_loses_nothing_when_redis_and_a_worker_are_killed(
    open_file: Path, store: OwnRedis
) -> None:
    """Calls go on, and the ledger has each answered one once, with those under way at the kill at most."""
    connections = 12
    running = contextlib.ExitStack()
    program = await asyncio.to_thread(running.enter_context, serving(open_file))
    try:
        key_id, key = await asyncio.to_thread(new_key, program, daily_limit=1_000_000)
        seen, done = Seen(), asyncio.Event()
        load = [
            asyncio.create_task(calls(program.proxy_port, key, seen, until=done)) for _ in range(connections)
        ]
        await _answers(seen, 200)
        await asyncio.to_thread(store.kill)
        await _answers(seen, 300)
        assert await asyncio.to_thread(journals, program)
        workers = await asyncio.to_thread(program.workers)
        os.kill(workers[0], signal.SIGKILL)
        await _answers(seen, 300)
        await asyncio.to_thread(store.start)
        await asyncio.to_thread(wait_until, lambda: not journals(program), 60)
        await _answers(seen, 200)
        done.set()
        await asyncio.gather(*load)
        await asyncio.to_thread(wait_until, lambda: not journals(program), 60)
        ledger = await _ledger(program, key_id)
        assert set(seen.codes) <= {"Ok", "NotAvailable"}
        assert seen.answered <= ledger <= seen.attempted
        assert ledger - seen.answered <= connections
        assert "were brought into the counters" in program.output
        assert key not in program.output
    finally:
        await asyncio.to_thread(running.close)


async def test_what_was_let_through_survives_a_restart_without_redis(
    open_file: Path, store: OwnRedis
) -> None:
    """A program that ends and starts while Redis is away brings in what the one before let through."""
    with contextlib.ExitStack() as first:
        program = await asyncio.to_thread(first.enter_context, serving(open_file))
        key_id, key = await asyncio.to_thread(new_key, program)
        seen, never = Seen(), asyncio.Event()
        # Each worker knows the key that it has seen: enough connections reach both.
        await asyncio.gather(*(calls(program.proxy_port, key, seen, count=1, until=never) for _ in range(40)))
        await asyncio.to_thread(store.kill)
        await calls(program.proxy_port, key, seen, count=20, until=never)
        assert await asyncio.to_thread(program.stop) == 0
    assert seen.codes == {"Ok": 60}
    with contextlib.ExitStack() as second:
        program = await asyncio.to_thread(second.enter_context, serving(open_file))
        assert await asyncio.to_thread(journals, program)
        assert await asyncio.to_thread(code, program, key) == "NotAvailable"
        await asyncio.to_thread(store.start)
        await asyncio.to_thread(wait_until, lambda: not journals(program), 60)
        assert await _ledger(program, key_id) == 60


async def _answers(seen: Seen, count: int) -> None:
    """Wait for so many more answers."""
    target = seen.answered + count
    async with asyncio.timeout(60):
        while seen.answered < target:
            await asyncio.sleep(0.02)


async def _ledger(program: Serving, key_id: str) -> int:
    """Return the units that are billed, the same twice over."""
    found = []
    for _ in range(2):
        await asyncio.to_thread(program.control, "POST", "/v1/rollup")
        units = await asyncio.to_thread(counted, program, key_id, live=False)
        found.append(units["taken"] - units["waived"])
    assert found[0] == found[1]
    return found[0]
