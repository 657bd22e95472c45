"""Nothing is lost when processes are replaced: rolling restarts, reloads and resizing under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from gateway import run_state
from gateway.stores import EmbeddedPostgres
from metering.ledger.engine import revisions
from tests.rig import Client
from tests.schema import set_back
from tests.serving import Serving, change, run_cli, serving, wait_until, write_config
from tests.system.traffic import call, counted, new_key

CONNECTIONS = 8
EARLIER = "0003"  # a revision without bills, lists of addresses and token peppers


@dataclass(slots=True)
class Served:
    """What clients saw: answers, and every call that did not end in one."""

    answered: int = 0
    closed: int = 0  # connections that the gateway announced to close
    failed: list[str] = field(default_factory=list)


async def kept_alive(port: int, key: str, seen: Served, done: asyncio.Event, pause_s: float) -> None:
    """Call in turn on one connection, and open another only when an answer said that it closes."""
    client: Client | None = None
    while not done.is_set():
        try:
            if client is None:
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
            answer = await client.send(call(key))
            assert answer.json()["ErrorCode"] == "Ok", answer.body
            seen.answered += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError, AssertionError) as error:
            seen.failed.append(repr(error))
            client = None
            continue
        if answer.header("connection") == "close":
            seen.closed += 1
            client.writer.close()
            client = None
        await asyncio.sleep(pause_s)
    if client is not None:
        client.writer.close()


async def fresh(port: int, key: str, seen: Served, done: asyncio.Event) -> None:
    """Make every call on a connection of its own."""
    while not done.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await Client(reader, writer).send(call(key))
            assert answer.json()["ErrorCode"] == "Ok", answer.body
            writer.close()
            seen.answered += 1
            await asyncio.sleep(0.01)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, AssertionError) as error:
            seen.failed.append(repr(error))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A program with two workers that the tests of this module share and leave running."""
    with serving(write_config(tmp_path_factory.mktemp("rolling"), workers=2)) as running:
        yield running


@dataclass(slots=True)
class Load:
    """Clients of every kind at a running program, with a key of their own."""

    program: Serving
    kept: Served = field(default_factory=Served)
    slow: Served = field(default_factory=Served)
    fresh: Served = field(default_factory=Served)
    key_id: str = ""
    _done: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self.key_id, key = await asyncio.to_thread(new_key, self.program)
        port, done = self.program.proxy_port, self._done
        for _ in range(CONNECTIONS):
            self._tasks.append(asyncio.create_task(kept_alive(port, key, self.kept, done, pause_s=0.01)))
            self._tasks.append(asyncio.create_task(kept_alive(port, key, self.slow, done, pause_s=0.1)))
        for _ in range(CONNECTIONS // 2):
            self._tasks.append(asyncio.create_task(fresh(port, key, self.fresh, done)))
        await self.more()
        return self

    async def more(self, calls: int = 100) -> None:
        """Wait for some more calls of every kind."""
        targets = [(each, each.answered + calls) for each in (self.kept, self.slow, self.fresh)]
        while any(each.answered < target and not each.failed for each, target in targets):
            await asyncio.sleep(0.02)

    async def __aexit__(self, *_: object) -> None:
        self._done.set()
        await asyncio.gather(*self._tasks)

    async def check(self) -> None:
        """Every call was answered, and as many are in the ledger as were."""
        assert [*self.kept.failed, *self.slow.failed, *self.fresh.failed] == []
        answered = self.kept.answered + self.slow.answered + self.fresh.answered
        await asyncio.to_thread(self.program.control, "POST", "/v1/rollup")
        ledger = await asyncio.to_thread(counted, self.program, self.key_id, live=False)
        assert ledger == {"taken": answered, "waived": 0}


async def test_a_rolling_restart_loses_no_call_and_counts_each_once(program: Serving) -> None:
    """All workers and the control process are others, and no client of any kind saw a failure."""
    before = await asyncio.to_thread(program.family)
    async with Load(program) as load:
        done = await asyncio.to_thread(run_cli, program, "restart")
        await load.more()
    after = await asyncio.to_thread(program.family)
    assert done.returncode == 0, done.stderr
    assert "All processes are replaced." in done.stderr
    replaced = {name for name in before if before[name].pid != after[name].pid}
    assert replaced == {"gateway.worker 0", "gateway.worker 1", "gateway.control"}
    assert load.kept.closed >= CONNECTIONS, "the kept connections were not told to close"
    await load.check()


async def test_long_answers_outlive_the_restart_that_came_in_their_middle(program: Serving) -> None:
    """The old worker stays for each of them and says in it that the connection closes."""
    _, key = await asyncio.to_thread(new_key, program)
    slow = call(key).replace(b"Host: a", b"Host: a\r\nX-Demo-Delay-Ms: 2000")
    restarting = asyncio.create_task(asyncio.to_thread(run_cli, program, "restart"))
    answers = []
    reader, writer = await asyncio.open_connection("127.0.0.1", program.proxy_port)
    with contextlib.closing(writer):
        while not answers or answers[-1].header("connection") != "close":
            answers.append(await Client(reader, writer).send(slow))
    done = await restarting
    assert done.returncode == 0, done.stderr
    assert {(answer.status, answer.json()["ErrorCode"]) for answer in answers} == {(200, "Ok")}


async def test_reloading_and_resizing_lose_no_call(program: Serving) -> None:
    """SIGHUP with more and with fewer workers goes unnoticed."""
    async with Load(program) as load:
        for workers in ("3", "1", "2"):
            change(program.config_file, workers=workers)
            program.process.send_signal(signal.SIGHUP)

            def resized(count: int = int(workers)) -> bool:
                state = run_state.read(program.data_dir / "run")
                assert state is not None
                return [each.state for each in state.workers] == ["ready"] * count

            await asyncio.to_thread(wait_until, resized, 60.0)
            await load.more(30)
    await load.check()


async def test_a_broken_configuration_stops_a_restart_before_anything_is_replaced(program: Serving) -> None:
    """The command fails with the reason, and the processes are the same."""
    before = await asyncio.to_thread(program.workers)
    right = program.config_file.read_text()
    try:
        change(program.config_file, max_headers="0")
        program.process.send_signal(signal.SIGUSR2)
        await asyncio.to_thread(wait_until, lambda: "rolling restart broken off" in program.output)
    finally:
        program.config_file.write_text(right)
    assert await asyncio.to_thread(program.workers) == before
    assert "server.max_headers" in program.output
    assert (await asyncio.to_thread(program.search))["ErrorCode"] == "Ok"


async def test_restarting_what_does_not_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Without a serving program there is nothing to restart."""
    config_file = await asyncio.to_thread(write_config, tmp_path)
    done = await asyncio.to_thread(run_cli, config_file, "restart")
    assert done.returncode == 1
    assert "Nothing serves from" in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_health_path_needs_no_key_and_is_no_call(program: Serving) -> None:
    """A load balancer gets 200 and JSON, the usage stays as it is."""
    before = await asyncio.to_thread(program.units)
    status, body = await asyncio.to_thread(program.request, "GET", "/.well-known/tallygate")
    assert (status, json.loads(body)["status"]) == (200, "ready")
    assert await asyncio.to_thread(program.units) == before


def test_a_leaving_gateway_says_so_before_it_takes_no_more_calls(tmp_path: Path) -> None:
    """With `leave_s` the health path answers 503 while calls are answered as before."""
    config_file = write_config(tmp_path)
    change(config_file, leave_s="2.0")
    with serving(config_file) as running:

        def health() -> int:
            return running.request("GET", "/.well-known/tallygate")[0]

        assert health() == 200
        running.process.terminate()
        wait_until(lambda: health() == 503)
        assert running.search()["ErrorCode"] == "Ok"
        assert running.process.wait(timeout=30) == 0


async def test_an_upgrade_migrates_under_traffic_and_loses_no_call(program: Serving) -> None:
    """From an earlier schema to the newest while clients of every kind call: no failure, each call counted.

    Somebody reads the ledger for a long time meanwhile, which the migration waits for without making others
    wait.
    """
    store = EmbeddedPostgres(program.data_dir, (program.data_dir / "run").resolve())
    url = await asyncio.to_thread(lambda: store.url)
    newest, *_ = await asyncio.to_thread(revisions)
    async with Load(program) as load:
        await set_back(url, EARLIER)
        reader = await asyncpg.connect(url)
        async with reader.transaction():
            await reader.fetch("SELECT * FROM keys")
            restarting = asyncio.create_task(asyncio.to_thread(run_cli, program, "restart"))
            await asyncio.to_thread(wait_until, lambda: "the ledger cannot be used yet" in program.output, 60)
            assert await reader.fetchval("SELECT version_num FROM alembic_version") == EARLIER
            await load.more(5)
        await reader.close()
        done = await restarting
        await load.more(20)
    assert done.returncode == 0, done.stderr
    checking = await asyncpg.connect(url)
    assert await checking.fetchval("SELECT version_num FROM alembic_version") == newest
    await checking.close()
    await load.check()


async def test_every_metric_of_the_alert_rules_is_exported(program: Serving) -> None:
    """A rule on a figure that nobody exports would never fire; the manual has every figure, and no other."""
    assert (await asyncio.to_thread(program.search))["ErrorCode"] == "Ok"
    rules = await asyncio.to_thread((Path(__file__).parents[2] / "deploy/alerts.yaml").read_text)
    named = set(re.findall(r"tallygate_[a-z_]+", "\n".join(re.findall(r"expr:(.*(?:\n {10,}.*)*)", rules))))
    figures = await asyncio.to_thread(program.control_text, "/metrics")
    exported = set(re.findall(r"^(tallygate_[a-z_]+)", figures, re.MULTILINE))
    assert len(named) >= 12
    manual = await asyncio.to_thread((Path(__file__).parents[2] / "docs/operations.md").read_text)
    families = set(re.findall(r"^# TYPE (tallygate_\w+) ", figures, re.MULTILINE))
    told = set(re.findall(r"^\| `(tallygate_\w+)` \| \w+ \|", manual, re.MULTILINE))
    assert {name for name in families if not name.endswith("_created")} <= told
    assert told - families <= {
        "tallygate_waived_units_total",
        "tallygate_bad_requests_total",
    }  # of none so far
    assert named - exported == set()
    reasons = set(re.findall(r'tallygate_degraded\{reason="([a-z_]+)"\}', rules))
    assert reasons <= set(re.findall(r'tallygate_degraded\{reason="([a-z_]+)"\}', figures))
