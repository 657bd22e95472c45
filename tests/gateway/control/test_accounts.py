"""Accounts over the control API."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.gateway.control.conftest import Api
from tests.metering.records import fetch_record


async def test_an_account_is_made_and_found(admin: Api) -> None:
    """What was made is shown and listed, with the configuration's currency and instants in UTC."""
    body = {"name": "Лавка", "main_domain": "shop.example", "first_request_at": "2026-11-20T12:00:00+03:00"}
    made = await admin.post("/v1/accounts", body)
    assert made.status == 201
    assert made.body["currency"] == "USD"
    assert made.body["first_request_at"] == "2026-11-20T09:00:00Z"
    shown = await admin.get(f"/v1/accounts/{made.body['id']}")
    assert shown.body == made.body
    listed = await admin.get("/v1/accounts")
    assert listed.body == {"items": [made.body], "next_cursor": None}


async def test_fields_that_are_absent_stay(admin: Api, account: str) -> None:
    """A change sets what it names: null clears, absence keeps."""
    path = f"/v1/accounts/{account}"
    await admin.patch(path, {"main_domain": "a.example", "name": "A"})
    changed = await admin.patch(path, {"main_domain": None})
    assert changed.status == 200
    assert (changed.body["name"], changed.body["main_domain"]) == ("A", None)


async def test_the_first_request_reaches_the_gateways(
    admin: Api, account: str, key: dict[str, Any], redis: Redis
) -> None:
    """Stating a first request changes the record of the account's keys at once (contract OT-2)."""
    changed = await admin.patch(f"/v1/accounts/{account}", {"first_request_at": "2026-11-01T00:00:00Z"})
    assert changed.body["in_force"] is True
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert record.first_request_at == 1793491200.0
    shown = await admin.get(f"/v1/keys/{key['id']}")
    assert shown.body["in_trial"] is False
    assert shown.body["limit_now"] == 100_000


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.name"}),
        ({"name": ""}, {"body.name"}),
        ({"name": "x" * 201}, {"body.name"}),
        ({"name": "a\x00b"}, {"body.name"}),
        ({"name": 7}, {"body.name"}),
        ({"name": "A", "nmae": "B"}, {"body.nmae"}),
        (
            {"first_request_at": "2026-11-20T12:00:00", "main_domain": 1},
            {"body.name", "body.first_request_at", "body.main_domain"},
        ),
        ({"name": "A", "first_request_at": "1066-10-14T00:00:00Z"}, {"body.first_request_at"}),
        ({"name": "A", "first_request_at": "0001-01-01T00:00:00+14:00"}, {"body.first_request_at"}),
        ({"name": "A", "first_request_at": "9999-12-31T23:59:59-14:00"}, {"body.first_request_at"}),
        ({"name": "A", "first_request_at": "2026-11-22T09:00:00Z"}, {"body.first_request_at"}),
        ({"name": " \u00a0"}, {"body.name"}),
        (["name"], {"body"}),
    ],
)
async def test_every_wrong_field_is_named(admin: Api, body: Any, fields: set[str]) -> None:
    """An account that cannot be made is refused with all of its wrong fields, and nothing is kept."""
    refused = await admin.post("/v1/accounts", body)
    assert refused.status == 422
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert refused.fields == fields
    assert (await admin.get("/v1/accounts")).body["items"] == []


async def test_a_name_cannot_be_emptied(admin: Api, account: str) -> None:
    """The one field that an account has to have cannot be cleared."""
    for name in (None, ""):
        assert (await admin.patch(f"/v1/accounts/{account}", {"name": name})).fields == {"body.name"}


@pytest.mark.parametrize("name", ["acc_0000000000000000", "acc_%00", "nonsense", "key_0000000000000000"])
async def test_an_unknown_account_is_not_found(admin: Api, name: str) -> None:
    """A path to nothing answers 404, whatever stands in it."""
    assert (await admin.get(f"/v1/accounts/{name}")).status == 404
    assert (await admin.patch(f"/v1/accounts/{name}", {"name": "B"})).status == 404


async def test_a_long_list_is_read_in_pages(admin: Api) -> None:
    """Pages follow each other without gap or repetition; a cursor of another list is refused."""
    made = [(await admin.post("/v1/accounts", {"name": str(number)})).body["id"] for number in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        page = await admin.get(f"/v1/accounts?limit=2{cursor}")
        assert len(page.body["items"]) <= 2
        found += [each["id"] for each in page.body["items"]]
        if page.body["next_cursor"] is None:
            break
        cursor = f"&cursor={page.body['next_cursor']}"
    assert sorted(found) == sorted(made)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "query.limit"),
        ("limit=1001", "query.limit"),
        ("limit=many", "query.limit"),
        ("cursor=nonsense", "query.cursor"),
        ("cursor=", "query.cursor"),
        ("page=2", "query.page"),
        ("limit=1&limit=2", "query.limit"),
    ],
)
async def test_a_wrong_query_is_refused(admin: Api, query: str, field: str) -> None:
    """A parameter that is unknown, doubled or out of bounds is named."""
    refused = await admin.get(f"/v1/accounts?{query}")
    assert refused.status == 422
    assert refused.fields == {field}


async def test_nothing_is_kept_of_a_change_that_fails(admin: Api, engine: AsyncEngine, account: str) -> None:
    """A refused change leaves no audit row."""
    before = (await admin.get("/v1/audit")).body["items"]
    await admin.patch(f"/v1/accounts/{account}", {"name": "B", "currency": "EUR"})
    assert (await admin.get("/v1/audit")).body["items"] == before


async def test_closing_an_account_closes_its_keys(admin: Api, account: str, key: dict[str, Any]) -> None:
    """The keys end with the account, in force at once; asked again it stays, and the past is refused."""
    closed = await admin.post(f"/v1/accounts/{account}/close")
    assert (closed.status, closed.body["in_force"]) == (200, True)
    assert closed.body["closed_at"] == "2026-11-21T09:00:00Z"
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["standing"] == "closed"
    again = await admin.post(f"/v1/accounts/{account}/close", {"at": "2027-01-01T00:00:00Z"})
    assert again.body["closed_at"] == closed.body["closed_at"]
    refused = await admin.post(f"/v1/accounts/{account}/close", {"at": "2026-11-01T00:00:00Z"})
    assert (refused.status, refused.fields) == (422, {"body.at"})
