"""Interruptions over the control API: listed, reconciled, acknowledged, and told to operators."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from prometheus_client import generate_latest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from gateway.control.resources import Control
from metering.interruptions import Evidence
from metering.ledger import interruptions
from metering.names import SHARDS
from metering.rollup import RollupReport
from metering.watch import AUTHOR
from tests.gateway.control.conftest import NOON, Api, Clock
from tests.gateway.control.interrupting import interrupted

MONTH = "2026-11"


async def found(api: Api, query: str = "") -> list[str]:
    """The ids of interruptions that a list has."""
    page = await api.get(f"/v1/interruptions{query}")
    assert page.status == 200, page.text
    return [each["id"] for each in page.body["items"]]


async def test_interruption_is_named_until_somebody_acknowledges_it(
    admin: Api, redis: Redis, clock: Clock
) -> None:
    """Reconciling its month names it, an acknowledgement ends that, and both stand in the audit log."""
    noticed = await interrupted(admin, redis)
    told = (await admin.get(f"/v1/reconcile?period={MONTH}")).body
    assert (told["agrees"], [each["object_id"] for each in told["differences"]]) == (False, [noticed])
    (named,) = told["differences"]
    assert (named["kind"], named["account_id"]) == ("interruption", None)
    assert "calls of all keys between 2026-11-21T09:00:00Z and 2026-11-21T09:" in named["found"]
    clock.now += timedelta(hours=1)
    path = f"/v1/interruptions/{noticed}"
    done = await admin.post(f"{path}/acknowledge", {"reason": "12 calls in the access log, credited"})
    assert done.status == 200, done.text
    shown = (await admin.get(path)).body
    assert shown == done.body
    assert (shown["open"], shown["reason"]) == (False, "12 calls in the access log, credited")
    assert shown["acknowledged_by"].endswith("(admin for tests)")
    assert shown["acknowledged_at"] == "2026-11-21T10:00:00Z"
    assert (await admin.get(f"/v1/reconcile?period={MONTH}")).body["agrees"] is True
    trail = (await admin.get(f"/v1/audit?object={noticed}")).body["items"]
    assert [(each["action"], each["object"]) for each in trail] == [
        ("acknowledge", "interruption"),
        ("notice", "interruption"),
    ]


async def test_an_interruption_is_acknowledged_once(admin: Api, redis: Redis) -> None:
    """Who comes second hears who was first; without a reason nothing is acknowledged."""
    path = f"/v1/interruptions/{await interrupted(admin, redis)}/acknowledge"
    assert (await admin.post(path, {})).fields == {"body.reason"}
    assert (await admin.post(path, {"reason": "seen"}, Dry_Run="true")).body["open"] is False
    assert (await admin.post(path, {"reason": "seen"})).status == 200
    again = await admin.post(path, {"reason": "seen too"})
    assert (again.status, "(admin for tests) before" in again.body["detail"]) == (409, True)
    missing = await admin.post("/v1/interruptions/int_0123456789abcdef/acknowledge", {"reason": "x"})
    assert missing.status == 404


async def test_interruptions_are_listed_by_month_and_by_what_is_open(
    admin: Api, redis: Redis, clock: Clock
) -> None:
    """A month of the billing timezone has those with a moment in it, a page goes on where it ended."""
    first = await interrupted(admin, redis)
    clock.now = NOON + timedelta(days=30)
    second = await interrupted(admin, redis)
    assert await found(admin) == [first, second]
    assert await found(admin, f"?period={MONTH}") == [first]
    assert await found(admin, "?period=2026-12") == [second]
    assert await found(admin, "?period=2026-10") == []
    await admin.post(f"/v1/interruptions/{first}/acknowledge", {"reason": "x"})
    assert await found(admin, "?open=true") == [second]
    assert await found(admin, "?open=false") == [first]
    page = (await admin.get("/v1/interruptions?limit=1")).body
    assert await found(admin, f"?cursor={page['next_cursor']}") == [second]


async def test_interruption_says_what_is_known(admin: Api, redis: Redis) -> None:
    """Which keys, from when to when, at which servers, and a sentence for people."""
    shown = (await admin.get(f"/v1/interruptions/{await interrupted(admin, redis)}")).body
    assert (shown["kind"], shown["evidence"], shown["open"]) == ("emptied", "behind", True)
    assert shown["shards"] == list(SHARDS)
    assert shown["address"] == shown["former_address"]
    assert "has older data than it had" in shown["explanation"]
    assert shown["since"] == "2026-11-21T09:00:00Z"
    assert "2026-11-21T09:00:00" <= shown["until"] < "2026-11-21T10"


async def test_operators_are_told_once(
    admin: Api, redis: Redis, control: Control, engine: AsyncEngine
) -> None:
    """One line in the log with what to look at, a counter by kind, and how many are open."""
    with capture_logs() as lines:
        noticed = await interrupted(admin, redis)
        await control.rollups.roll_up()
    (line,) = [each for each in lines if each.get("interruption") == noticed]
    assert (line["log_level"], line["look_at"]) == ("error", f"tallygate interruption show {noticed}")
    assert (line["shards"], line["since"]) == (256, "2026-11-21T09:00:00+00:00")
    figures = generate_latest(control.registry).decode()
    assert 'tallygate_interruptions_total{evidence="behind",kind="emptied"} 1.0' in figures
    assert "tallygate_interruptions_open 1.0" in figures
    await admin.post(f"/v1/interruptions/{noticed}/acknowledge", {"reason": "x"})
    await control.rollups.roll_up()
    assert "tallygate_interruptions_open 0.0" in generate_latest(control.registry).decode()


async def test_what_lost_nothing_is_told_quietly(
    admin: Api, redis: Redis, control: Control, engine: AsyncEngine
) -> None:
    """A failover that is proven whole, at once or later, is no error, nor has it anything to acknowledge."""
    noticed = await interrupted(admin, redis)
    async with engine.begin() as connection:
        kept = await interruptions.get(connection, noticed)
        proven = await interruptions.prove(connection, kept, now=NOON, by=AUTHOR)
    report = RollupReport(0, 0, (), (), False, False, False, (proven,), (proven,))
    with capture_logs() as lines:
        await control.rollups.noticing.tell(report, engine)
    assert [(each["log_level"], each["interruption"]) for each in lines] == [("info", noticed)] * 2
    refused = await admin.post(f"/v1/interruptions/{noticed}/acknowledge", {"reason": "x"})
    assert (refused.status, "lost nothing" in refused.body["detail"]) == (409, True)
    assert replace(kept, evidence=Evidence.PROVEN) == proven


async def test_blindness_is_told_once(control: Control, engine: AsyncEngine) -> None:
    """Redis that does not tell of its past is named at the first roll-up, with what it takes."""
    report = RollupReport(0, 0, (), (), False, False, False, blind=True)
    with capture_logs() as lines:
        for _ in range(2):
            await control.rollups.noticing.tell(report, engine)
    (line,) = lines
    assert (line["log_level"], "INFO" in line["allow"]) == ("warning", True)
