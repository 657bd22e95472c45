"""Keys taken over from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.settings import Settings
from policies import keys as texts
from tests.gateway.control.conftest import Api
from tests.metering.records import find_record

OLD = "58d83a57-5f1c-4801-8569-03ef96c42217"


async def test_an_imported_key_works_as_it_is(
    admin: Api, account: str, redis: Redis, settings: Settings
) -> None:
    """The text that clients have already leads to the new key, which has no free month."""
    entry = {"account_id": account, "plan": "K2", "credential": OLD, "site": "old.example"}
    made = await admin.post("/v1/keys/import", {"keys": [entry]})
    assert (made.status, made.body["imported"], made.body["in_force"]) == (201, 1, True)
    record = await find_record(redis, texts.digest(OLD, settings.security.peppers[0][1]))
    assert record is not None
    assert [record.key_id] == made.body["ids"]
    shown = await admin.get(f"/v1/keys/{record.key_id}")
    assert (shown.body["in_trial"], shown.body["limit_now"]) == (False, 50_000)


async def test_many_are_imported_in_order(admin: Api, account: str, redis: Redis, settings: Settings) -> None:
    """More keys than the projection moves at a time are all in force when the answer comes."""
    keys = [
        {"account_id": account, "plan": "K1", "credential": f"old-key-{number:05}"} for number in range(2_600)
    ]
    made = await admin.post("/v1/keys/import", {"keys": keys})
    assert (made.body["imported"], made.body["in_force"]) == (2_600, True)
    pepper = settings.security.peppers[0][1]
    for number in (0, 2_599):
        record = await find_record(redis, texts.digest(f"old-key-{number:05}", pepper))
        assert record is not None
        assert record.key_id == made.body["ids"][number]


async def test_an_import_is_all_or_none(admin: Api, account: str) -> None:
    """One key that is in use already keeps the others out, and is named."""
    entry = {"account_id": account, "plan": "K1"}
    await admin.post("/v1/keys/import", {"keys": [entry | {"credential": "already-here"}]})
    keys = [entry | {"credential": text} for text in ("fresh-one", "already-here", "fresh-two", "fresh-one")]
    refused = await admin.post("/v1/keys/import", {"keys": keys})
    assert refused.status == 409
    assert refused.fields == {"body.keys[2].credential", "body.keys[4].credential"}
    assert len((await admin.get("/v1/keys")).body["items"]) == 1
    assert "already-here" not in refused.text


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"credential": "short"}, {"body.keys[2].credential"}),
        ({"credential": "tg_mistyped00000000000000000000000000"}, {"body.keys[2].credential"}),
        ({"credential": "with a space"}, {"body.keys[2].credential"}),
        ({"plan": "K7", "purchased_at": "2026"}, {"body.keys[2].purchased_at"}),
        ({"plan": "K7"}, {"body.keys[2].plan"}),
        ({"purchased_at": "2026-11-22T00:00:00+03:00"}, {"body.keys[2].purchased_at"}),
        ({"colour": "red"}, {"body.keys[2].colour"}),
    ],
)
async def test_wrong_rows_are_named(
    admin: Api, account: str, change: dict[str, Any], fields: set[str]
) -> None:
    """A row that cannot be taken over is named by its place, without its key's text."""
    good = {"account_id": account, "plan": "K1", "credential": "good-enough"}
    refused = await admin.post(
        "/v1/keys/import", {"keys": [good, good | {"credential": "canary-text"} | change]}
    )
    assert refused.status == 422
    assert refused.fields == fields
    for text in ("canary-text", "mistyped0", "with a space"):
        assert text not in refused.text
    assert (await admin.get("/v1/keys")).body["items"] == []


async def test_an_empty_import_is_refused(admin: Api) -> None:
    """There has to be something to import."""
    assert (await admin.post("/v1/keys/import", {"keys": []})).fields == {"body.keys"}
