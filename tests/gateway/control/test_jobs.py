"""The jobs of the control process: roll-up, rebuild, and carrying changes."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from redis.asyncio import ConnectionPool, Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from gateway.control.periodic import Jobs, running
from gateway.control.resources import Control
from gateway.settings import Settings
from metering import journal
from metering.batches import Owed
from metering.ledger import usage
from metering.open_calls import DIRECTORY
from tests.gateway.control.conftest import Api, Clock
from tests.gateway.control.counting import count
from tests.metering.records import fetch_record

PATIENCE_S = 10.0


async def eventually(question: Any) -> None:
    """Wait until an asynchronous question is answered with yes."""
    async with asyncio.timeout(PATIENCE_S):
        while not await question():
            await asyncio.sleep(0.02)


async def test_a_second_roll_up_changes_nothing(
    admin: Api, key: dict[str, Any], redis: Redis, settings: Settings, clock: Clock
) -> None:
    """The first writes a row, the second none, and usage is the same after both."""
    await count(redis, settings, clock, key["id"], calls=3)
    first, second = [(await admin.post("/v1/rollup", {"full": True})).body for _ in range(2)]
    assert (first["rows"], second["rows"]) == (1, 0)
    assert (await admin.get("/v1/usage?group_by=key")).body["items"][0]["calls"] == 3


async def test_an_emptied_redis_is_filled_again(
    admin: Api, key: dict[str, Any], redis: Redis, settings: Settings, clock: Clock, control: Control
) -> None:
    """The next roll-up notices that Redis lost its data: today's counters and the keys come back."""
    await control.rollups.roll_up()
    await count(redis, settings, clock, key["id"], calls=4)
    await admin.post("/v1/rollup")
    await redis.flushall()
    rolled = await admin.post("/v1/rollup")
    assert rolled.body["rebuilt"] is True
    assert await fetch_record(redis, key["id"]) is not None
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["used_now"] == 4
    assert b"tallygate_rebuilds_total 1.0" in generate_latest(control.registry)
    row = (await admin.get("/v1/audit?object=redis")).body["items"][0]
    assert (row["actor"], row["action"], row["after"]) == (
        "rollup",
        "counters.rebuild",
        {"key_days": 1, "raised": 0, "records": 1},
    )


async def test_a_rebuild_can_be_asked_for(admin: Api, key: dict[str, Any], redis: Redis) -> None:
    """Asked for, it fills an emptied Redis, and says how many keys are in force."""
    await redis.flushall()
    rebuilt = await admin.post("/v1/rebuild")
    assert (rebuilt.status, rebuilt.body["records"]) == (200, 1)
    assert await fetch_record(redis, key["id"]) is not None


async def test_a_first_call_of_a_sandbox_is_the_first_request(
    admin: Api, account: str, redis: Redis, settings: Settings, clock: Clock
) -> None:
    """The roll-up stamps the account with the time of the first call made with a free key (contract OT-2)."""
    sandbox = (await admin.post("/v1/keys", {"account_id": account, "plan": "sandbox"})).body
    await count(redis, settings, clock, sandbox["id"])
    rolled = await admin.post("/v1/rollup")
    assert rolled.body["stamped_accounts"] == [account]
    assert (await admin.get(f"/v1/accounts/{account}")).body["first_request_at"] == "2026-11-21T09:00:00Z"
    assert [entry["actor"] for entry in (await admin.get("/v1/audit?limit=1")).body["items"]] == ["rollup"]


async def test_no_failure_of_a_job_is_its_series_first_figure(admin: Api) -> None:
    """Each job of the manual has failed zero times before it does: a rate needs a figure to rise from."""
    manual = await asyncio.to_thread((Path(__file__).parents[3] / "docs/operations.md").read_text)
    (row,) = re.findall(r"^\| `tallygate_job_failures_total` .* by `job` \((.+)\) \|$", manual, re.MULTILINE)
    figures = (await admin.get("/metrics")).text
    told = dict(re.findall(r'^tallygate_job_failures_total\{job="(\w+)"\} (.+)$', figures, re.MULTILINE))
    assert told == dict.fromkeys(re.findall(r"`(\w+)`", row), "0.0")


async def test_the_jobs_run_by_themselves(
    admin: Api,
    key: dict[str, Any],
    redis: Redis,
    settings: Settings,
    clock: Clock,
    control: Control,
    jobs: Jobs,
) -> None:
    """Without anybody asking, counts reach the ledger and a lost projection is restored."""
    await count(redis, settings, clock, key["id"], calls=2)

    async def is_written() -> bool:
        return bool((await admin.get("/v1/usage")).body["items"])

    async def is_restored() -> bool:
        return await fetch_record(redis, key["id"]) is not None

    control.settings = _often(settings)
    async with running(jobs):
        await eventually(is_written)
        await redis.flushall()
        await eventually(is_restored)


async def test_jobs_survive_a_store_that_is_away(
    admin: Api, key: dict[str, Any], redis: Redis, settings: Settings, control: Control, jobs: Jobs
) -> None:
    """While Redis cannot be reached the jobs fail, are counted as such, and go on when it is back."""
    control.settings = _often(settings)
    there = redis.connection_pool
    redis.connection_pool = ConnectionPool.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.2)

    async def has_failed() -> bool:
        return (
            'tallygate_job_failures_total{job="rollup"} 0.0' not in generate_latest(control.registry).decode()
        )

    async def works() -> bool:
        figures = generate_latest(control.registry).decode()
        return "tallygate_rollup_timestamp_seconds 0.0" not in figures

    async with running(jobs) as task:
        await eventually(has_failed)
        redis.connection_pool = there
        await eventually(works)
        assert not task.done()


async def test_jobs_survive_a_ledger_that_takes_no_rows(
    admin: Api,
    key: dict[str, Any],
    redis: Redis,
    settings: Settings,
    clock: Clock,
    control: Control,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the driver raises by itself, as on a full disk, is a failure of the job and told by its name."""
    await count(redis, settings, clock, key["id"])
    assert (await admin.post("/v1/rollup")).status == 200
    await count(redis, settings, clock, key["id"])
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(usage, "_STAGE", "SELECT 1/0")
        assert (await admin.post("/v1/rollup")).status == 503
        control.settings = _often(settings)
        async with running(jobs) as task:

            async def has_failed() -> bool:
                return any(each["event"] == "a job fails and is tried again" for each in logs)

            await eventually(has_failed)
            assert not task.done()
    (told,) = [each for each in logs if each.get("job") == "rollup"]
    assert told["error"] == "DivisionByZeroError"


async def test_a_wrong_request_starts_no_job(admin: Api, engine: AsyncEngine) -> None:
    """Unknown fields are refused here too."""
    assert (await admin.post("/v1/rollup", {"fully": True})).fields == {"body.fully"}
    assert (await admin.post("/v1/rebuild", {"now": True})).fields == {"body.now"}


def _often(settings: Settings) -> Settings:
    return replace(settings, rollup_every_s=0.05)


@pytest.fixture(autouse=True)
async def _ready(control: Control) -> None:
    """Let the first roll-up of a test find Redis as a running gateway has left it."""
    await control.rollups.rebuild()


async def test_jobs_end_when_a_driver_turns_the_cancellation_into_an_error(
    control: Control, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that breaks off while the process stops does not keep it from stopping."""
    begun = asyncio.Event()

    async def roll_up(*, full: bool = False) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            raise OSError("the connection was lost") from error

    monkeypatch.setattr(control.rollups, "roll_up", roll_up)
    async with asyncio.timeout(PATIENCE_S):
        async with running(jobs):
            await begun.wait()


def journal_of(settings: Settings, key_id: str, day: str, calls: int) -> Path:
    """Write what a worker let through, as it leaves it behind."""
    directory = settings.stores.data_dir / DIRECTORY
    directory.mkdir(parents=True)
    records = [journal.encode_header("00000000000000aa")]
    owed = Owed({"used": calls, "c:SearchItemsFrame|search": calls, "t:SearchItemsFrame|search": calls})
    records.append(journal.encode_owed((key_id, day), owed))
    path = directory / f"00000000000000aa{journal.SUFFIX}"
    path.write_bytes(b"".join(records))
    return path


async def test_what_was_let_through_is_brought_in_by_itself(
    admin: Api, key: dict[str, Any], settings: Settings, control: Control, jobs: Jobs
) -> None:
    """A journal that a worker left is counted within seconds, told of once, and removed."""
    path = journal_of(settings, key["id"], "20261121", 7)

    async def told_of() -> bool:
        return b"tallygate_replayed_calls_total 7.0" in generate_latest(control.registry)

    with capture_logs() as lines:
        async with running(jobs):
            await eventually(told_of)
    assert not path.exists()
    await control.rollups.roll_up()
    assert (await admin.get("/v1/usage?group_by=key")).body["items"][0]["calls"] == 7
    told = [line for line in lines if line["event"].endswith("brought into the counters")]
    assert [(line["calls"], line["journal"]) for line in told] == [(7, path.name)]


async def test_a_journal_of_a_key_that_nobody_knows_waits_and_says_so(
    key: dict[str, Any], settings: Settings, control: Control, jobs: Jobs
) -> None:
    """What cannot be counted stays in the file; the log names the keys, and the next look comes later."""
    path = journal_of(settings, "key_00000000000000ff", "20261121", 7)
    with capture_logs() as lines:
        await jobs.bring_in()
    assert path.exists()
    assert [line["keys"] for line in lines if "a journal waits" in line["event"]] == [
        ["key_00000000000000ff"]
    ]
    assert b"tallygate_replayed_calls_total 0.0" in generate_latest(control.registry)


async def test_a_torn_journal_is_told_of(
    key: dict[str, Any], settings: Settings, control: Control, jobs: Jobs
) -> None:
    """What was cut off is kept, and an operator finds out where and what it means."""
    path = journal_of(settings, key["id"], "20261121", 7)
    with path.open("ab") as file:
        file.write(b"torn")
    with capture_logs() as lines:
        await jobs.bring_in()
    (told,) = [line for line in lines if "whole record" in line["event"]]
    assert (told["bytes_cut"], told["kept_as"]) == (4, str(path.with_suffix(".damaged")))
    assert b"tallygate_journals_damaged_total 1.0" in generate_latest(control.registry)
    assert b"tallygate_replayed_calls_total 7.0" in generate_latest(control.registry)
