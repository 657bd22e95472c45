"""Usage over the control API: for operators, for billing, and for a client site about itself."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from redis.asyncio import Redis

from gateway.control.resources import Control
from gateway.settings import Settings
from policies.quota import Window
from tests.gateway.control.conftest import Api, Clock
from tests.gateway.control.counting import count


@pytest.fixture
async def used(
    key: dict[str, Any], redis: Redis, settings: Settings, clock: Clock, control: Control
) -> dict[str, Any]:
    """A key with 5 searches (2 waived), 3 official ones and 4 denied calls, in the ledger."""
    await count(redis, settings, clock, key["id"], calls=5, waived=2, denied=4)
    await count(redis, settings, clock, key["id"], klass="official_search", calls=3)
    await control.rollups.roll_up()
    return key


async def test_usage_is_grouped(admin: Api, used: dict[str, Any]) -> None:
    """Each group has its calls, units, waived units and what is to be paid."""
    found = await admin.get("/v1/usage?period=2026-11&group_by=key,class")
    assert found.status == 200
    row = {"key": used["id"], "class": "search", "calls": 5, "taken": 5, "waived": 2, "billable": 3}
    official = row | {"class": "official_search", "calls": 3, "taken": 3, "waived": 0, "billable": 3}
    assert found.body["items"] == [official, row]
    days = {"first": "2026-11-01", "last_excluded": "2026-12-01", "timezone": "Europe/Moscow"}
    assert found.body["period"] == days


async def test_the_default_period_is_this_month(admin: Api, used: dict[str, Any], clock: Clock) -> None:
    """Without a period it is the month that runs in the billing timezone, which begins before UTC's."""
    assert len((await admin.get("/v1/usage?group_by=month")).body["items"]) == 1
    clock.now = clock.now.fromisoformat("2026-11-30T21:00:00+00:00")
    found = await admin.get("/v1/usage?group_by=month")
    assert found.body["items"] == []
    assert found.body["period"]["first"] == "2026-12-01"


async def test_live_usage_runs_ahead_of_the_ledger(
    admin: Api, used: dict[str, Any], redis: Redis, settings: Settings, clock: Clock, control: Control
) -> None:
    """What was counted since the last roll-up shows with live=true, and without it after the next one."""
    await count(redis, settings, clock, used["id"], calls=10)
    ledger, live = "/v1/usage?group_by=account", "/v1/usage?group_by=account&live=true"
    assert [(await admin.get(path)).body["items"][0]["calls"] for path in (ledger, live)] == [8, 18]
    await admin.post("/v1/rollup")
    assert (await admin.get(ledger)).body["items"][0]["calls"] == 18


async def test_rows_come_as_csv(admin: Api, account: str, used: dict[str, Any]) -> None:
    """CSV has the groups and the counts; a site's name that looks like a formula is made harmless."""
    await admin.patch(f"/v1/keys/{used['id']}", {"site": '=HYPERLINK("x")'})
    answer = await admin.get("/v1/usage?group_by=site,class&format=csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["site", "class", "calls", "taken", "waived", "billable"]
    assert rows[2] == ['\'=HYPERLINK("x")', "search", "5", "5", "2", "3"]


async def test_rows_come_as_ndjson(admin: Api, used: dict[str, Any]) -> None:
    """NDJSON has the same rows as JSON, one a line."""
    as_json = (await admin.get("/v1/usage?group_by=key,class")).body["items"]
    lines = (await admin.get("/v1/usage?group_by=key,class&format=ndjson")).text.splitlines()
    assert [json.loads(line) for line in lines] == as_json


@pytest.mark.parametrize("form", ["json", "csv", "ndjson"])
async def test_usage_is_read_in_pages(admin: Api, used: dict[str, Any], form: str) -> None:
    """Each form says where the next page is, and the pages together hold every row once."""
    path = f"/v1/usage?group_by=class&limit=1&format={form}"
    first = await admin.get(path)
    cursor = first.body["next_cursor"] if form == "json" else first.headers["X-Next-Cursor"]
    second = await admin.get(f"{path}&cursor={cursor}")
    if form == "json":
        assert second.body["next_cursor"] is None
    else:
        assert f"cursor={cursor}" in first.headers["Link"]
        assert "X-Next-Cursor" not in second.headers
    assert "official_search" in first.text
    assert "official_search" not in second.text
    assert "search" in second.text


async def test_usage_is_filtered(admin: Api, account: str, used: dict[str, Any]) -> None:
    """Account, key, site, method and class narrow what is added up."""
    calls = []
    for query in (
        f"account={account}",
        f"key={used['id']}",
        "site=shop.example",
        "method=SearchItemsFrame",
        "class=search",
        "site=other.example",
        "key=key_0123456789abcdef",
        "period=2026-11-20",
        "period=2026-11-21..2026-11-22",
    ):
        items = (await admin.get(f"/v1/usage?group_by=month&{query}")).body["items"]
        calls.append(items[0]["calls"] if items else 0)
    assert calls == [8, 8, 8, 8, 5, 0, 0, 0, 8]


async def test_reasons_are_told(admin: Api, used: dict[str, Any]) -> None:
    """Denied calls and waived units are added up by reason."""
    found = await admin.get("/v1/usage/reasons?group_by=key")
    assert found.body["items"] == [
        {"key": used["id"], "effect": "denied", "reason": "suspended", "units": 4},
        {"key": used["id"], "effect": "waived", "reason": "error_code", "units": 2},
    ]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("period=2026-13", {"query.period"}),
        ("period=October", {"query.period"}),
        ("period=2026-11-05..2026-11-01", {"query.period"}),
        ("group_by=kye", {"query.group_by"}),
        ("group_by=key,key", {"query.group_by"}),
        ("key=acc", {"query.key"}),
        ("format=xml", {"query.format"}),
        ("cursor=x", {"query.cursor"}),
        ("live=perhaps&limit=0", {"query.live", "query.limit"}),
    ],
)
async def test_a_wrong_question_is_refused(admin: Api, query: str, fields: set[str]) -> None:
    """What cannot be answered is refused with what is wrong in it."""
    refused = await admin.get(f"/v1/usage?{query}")
    assert (refused.status, refused.fields) == (422, fields)


@pytest.mark.parametrize("header", ["X-Api-Key", "Authorization"])
async def test_a_site_sees_its_own_usage(
    client: TestClient[Any, Any], used: dict[str, Any], header: str
) -> None:
    """With its own key a site sees what it used and what is left, and nothing of others."""
    value = used["key"] if header == "X-Api-Key" else f"Bearer {used['key']}"
    found = await Api(client, None).call("GET", "/v1/me/usage?group_by=class", **{header: value})
    assert found.status == 200
    assert [(row["class"], row["calls"]) for row in found.body["items"]] == [
        ("official_search", 3),
        ("search", 5),
    ]
    quota = {"standing": "active", "limit": 100_000, "window": "day", "used": 6, "left": 99_994}
    assert (found.body["key_id"], found.body["quota"]) == (used["id"], quota)


async def test_a_site_cannot_ask_for_others(client: TestClient[Any, Any], used: dict[str, Any]) -> None:
    """Groups and filters that would show other keys are no part of a site's own usage."""
    site = Api(client, used["key"])
    assert (await site.get("/v1/me/usage?group_by=account")).fields == {"query.group_by"}
    assert (await site.get("/v1/me/usage?key=key_0123456789abcdef")).fields == {"query.key"}


async def test_a_key_that_ended_sees_nothing(
    client: TestClient[Any, Any], admin: Api, key: dict[str, Any]
) -> None:
    """A suspended key may still look at its usage; one that was revoked or rotated away may not."""
    site = Api(client, key["key"])
    await admin.post(f"/v1/keys/{key['id']}/suspend")
    assert (await site.get("/v1/me/usage")).body["quota"]["standing"] == "suspended"
    await admin.post(f"/v1/keys/{key['id']}/resume")
    rotated = await admin.post(f"/v1/keys/{key['id']}/rotate", {"overlap_s": 0})
    assert (await site.get("/v1/me/usage")).status == 401
    renewed = Api(client, rotated.body["key"])
    assert (await renewed.get("/v1/me/usage")).status == 200
    await admin.post(f"/v1/keys/{key['id']}/revoke")
    assert (await renewed.get("/v1/me/usage")).status == 401


async def test_one_key_in_one_place(client: TestClient[Any, Any], key: dict[str, Any]) -> None:
    """No key, or a text that is none, is refused."""
    anonymous = Api(client, None)
    assert (await anonymous.get("/v1/me/usage")).status == 401
    assert (await anonymous.get("/v1/me/usage", X_Api_Key="tg_nonsense")).status == 401


async def test_a_rolling_window_is_told(
    admin: Api, account: str, client: TestClient[Any, Any], redis: Redis, settings: Settings, clock: Clock
) -> None:
    """For a key with a rolling window the quota in use is that of the last 24 hours."""
    body = {"account_id": account, "plan": "K1", "daily_limit": 10, "window": "rolling_24h"}
    key = (await admin.post("/v1/keys", body)).body
    await count(redis, settings, clock, key["id"], calls=4, window=Window.ROLLING_24H)
    site = Api(client, key["key"])
    clock.now += timedelta(hours=24)
    assert (await site.get("/v1/me/usage")).body["quota"]["left"] == 6
    clock.now += timedelta(minutes=10)
    assert (await site.get("/v1/me/usage")).body["quota"]["left"] == 10
