"""Requests sent again with an `Idempotency-Key`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.periodic import Jobs
from tests.gateway.control.conftest import Api, Clock


async def test_a_repeated_request_has_no_second_effect(admin: Api) -> None:
    """The same request with the same key makes one account and gives the same answer."""
    first = await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="one")
    again = await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="one")
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert len((await admin.get("/v1/accounts")).body["items"]) == 1


async def test_at_the_same_time_too(admin: Api) -> None:
    """Requests that race with the same key make one account."""
    racing = (admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="race") for _ in range(5))
    answers = await asyncio.gather(*racing)
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["id"] for answer in answers}) == 1
    assert len((await admin.get("/v1/accounts")).body["items"]) == 1


async def test_a_key_is_not_told_again(admin: Api, account: str, engine: AsyncEngine) -> None:
    """A repeated creation names the same key without its text, which is kept nowhere."""
    body = {"account_id": account, "plan": "K1"}
    first = await admin.post("/v1/keys", body, Idempotency_Key="k")
    again = await admin.post("/v1/keys", body, Idempotency_Key="k")
    assert again.body["id"] == first.body["id"]
    assert (again.body["key"], again.body["in_force"]) == (None, True)
    async with engine.connect() as connection:
        kept = (await connection.execute(sa.text("SELECT body FROM idempotency"))).scalars().all()
    assert len(kept) == 1
    assert first.body["key"] not in kept[0]


async def test_another_request_is_refused(admin: Api) -> None:
    """The key of one request is refused for another body, and is free on another path."""
    await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="one")
    refused = await admin.post("/v1/accounts", {"name": "B"}, Idempotency_Key="one")
    assert (refused.status, refused.fields) == (422, {"header.Idempotency-Key"})
    other = await admin.post("/v1/tokens", {"name": "t", "role": "ops"}, Idempotency_Key="one")
    assert other.status == 201


async def test_what_failed_may_be_tried_again(admin: Api) -> None:
    """A refused request leaves its key free, so that the corrected one can use it."""
    assert (await admin.post("/v1/accounts", {}, Idempotency_Key="k")).status == 422
    assert (await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="k")).status == 201


@pytest.mark.parametrize("text", ["", " ", "x" * 256, "\u00e9"])
async def test_a_wrong_idempotency_key_is_refused(admin: Api, text: str) -> None:
    """The key has 1 to 255 visible characters."""
    refused = await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key=text)
    assert (refused.status, refused.fields) == (422, {"header.Idempotency-Key"})


async def test_it_is_for_post_only(admin: Api, account: str) -> None:
    """Where repeating is harmless anyway, the header is refused instead of being ignored."""
    refused = await admin.call("PATCH", f"/v1/accounts/{account}", {"name": "B"}, Idempotency_Key="k")
    assert refused.status == 422


async def test_answers_are_forgotten_after_a_day(admin: Api, jobs: Jobs, clock: Clock) -> None:
    """A day later the same key stands for a new request."""
    first = await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="one")
    clock.now += timedelta(hours=24, seconds=1)
    await jobs.clean()
    assert (await admin.post("/v1/accounts", {"name": "A"}, Idempotency_Key="one")).body["id"] != first.body[
        "id"
    ]


async def test_a_rotation_is_repeated_safely(admin: Api, key: dict[str, Any], redis: Redis) -> None:
    """A rotation whose answer was lost is not done twice."""
    path = f"/v1/keys/{key['id']}/rotate"
    first = await admin.post(path, {"overlap_s": 60}, Idempotency_Key="r")
    again = await admin.post(path, {"overlap_s": 60}, Idempotency_Key="r")
    assert again.body["revision"] == first.body["revision"]
    assert len((await admin.get(f"/v1/keys/{key['id']}")).body["credentials"]) == 2
