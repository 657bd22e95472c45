"""A change of peppers: what is under an old one works, is counted, and moves to the new one."""

from __future__ import annotations

import dataclasses
from typing import Any

from redis.asyncio import Redis

from gateway.carrying import offer_of
from gateway.control.periodic import Jobs
from gateway.control.resources import Control
from metering import carrying
from policies import keys
from tests.gateway.control.conftest import Api
from tests.metering.records import fetch_record, find_record

NEW = ("p2", b"n" * 32)


def change_pepper(control: Control) -> None:
    """Put a new pepper before the one that everything is under so far."""
    security = control.settings.security
    changed = dataclasses.replace(security, peppers=(NEW, *security.peppers))
    control.settings = dataclasses.replace(control.settings, security=changed)


async def needs(admin: Api) -> dict[str, dict[str, Any]]:
    """Return what each pepper is needed for, by its id."""
    return {each["id"]: each for each in (await admin.get("/v1/peppers")).body["items"]}


async def test_all_that_an_old_pepper_holds_is_counted(
    admin: Api, control: Control, account: str, key: dict[str, Any]
) -> None:
    """Keys that are over need no pepper; what is made after the change comes under the new one."""
    over = (await admin.post("/v1/keys", {"account_id": account, "plan": "K1"})).body
    await admin.post(f"/v1/keys/{over['id']}/revoke", {})
    await admin.patch(f"/v1/keys/{key['id']}", {"signing_secret": "word"})
    await admin.post("/v1/webhooks", {"url": "https://hooks.example/x"})
    change_pepper(control)
    made = (await admin.post("/v1/keys", {"account_id": account, "plan": "K1"})).body
    found = await needs(admin)
    assert list(found) == ["p2", "p1"]
    assert (found["p1"]["keys"], found["p1"]["secrets"], found["p1"]["first"]) == (1, 2, False)
    assert (found["p2"]["keys"], found["p2"]["secrets"], found["p2"]["first"]) == (1, 0, True)
    listed = (await admin.get("/v1/keys?pepper=p1")).body["items"]
    assert key["id"] in [each["id"] for each in listed]
    assert made["id"] not in [each["id"] for each in listed]


async def test_a_text_that_is_seen_is_carried_over(
    admin: Api, control: Control, jobs: Jobs, key: dict[str, Any], redis: Redis
) -> None:
    """It is known under both peppers, looks like one text, ends with its rotation, and is audited."""
    old = keys.digest(key["key"], control.settings.security.peppers[0][1])
    change_pepper(control)
    peppers = control.settings.security.peppers
    await carrying.offer(redis, [offer_of(key["key"], old, peppers)])
    await jobs.carry()
    record = await find_record(redis, keys.digest(key["key"], NEW[1]))
    assert record is not None
    assert record.key_id == key["id"]
    assert set(record.credentials) == {old, keys.digest(key["key"], NEW[1])}
    found = await needs(admin)
    assert (found["p1"]["keys"], found["p1"]["carried"], found["p2"]["keys"]) == (0, 1, 1)
    assert (await admin.get("/v1/keys?pepper=p1")).body["items"] == []
    # A pepper that there never was has no keys either, which is not to be taken for "nobody needs it".
    assert (await admin.get("/v1/keys?pepper=p9")).fields == {"query.pepper"}
    shown = (await admin.get(f"/v1/keys/{key['id']}")).body
    assert [each["hint"] for each in shown["credentials"]] == [key["key"][-4:]]
    entry = (await admin.get(f"/v1/audit?object={key['id']}")).body["items"][0]
    assert (entry["action"], entry["actor"]) == ("key.carry", "change of peppers")
    assert (entry["before"]["pepper"], entry["after"]["pepper"]) == ("p1", "p2")
    assert await carrying.offered(redis) == []
    rotated = await admin.post(f"/v1/keys/{key['id']}/rotate", {"overlap_s": 60})
    assert rotated.status == 200
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert all(record.credentials[digest] is not None for digest in (old, keys.digest(key["key"], NEW[1])))


async def test_a_text_under_an_old_pepper_is_not_imported_again(
    admin: Api, control: Control, account: str
) -> None:
    """It would be a second key of the same text, and take the calls of the first."""
    entry = {"account_id": account, "plan": "K1", "credential": "already-here"}
    assert (await admin.post("/v1/keys/import", {"keys": [entry]})).status == 201
    change_pepper(control)
    fresh = entry | {"credential": "not-yet-here"}
    refused = await admin.post("/v1/keys/import", {"keys": [fresh, entry]})
    assert (refused.status, refused.fields) == (409, {"body.keys[2].credential"})
    assert (await admin.post("/v1/keys/import", {"keys": [fresh]})).status == 201
    assert len((await admin.get("/v1/keys")).body["items"]) == 2


async def test_what_was_offered_twice_or_wrongly_changes_nothing(
    admin: Api, control: Control, jobs: Jobs, account: str, key: dict[str, Any], redis: Redis
) -> None:
    """A repeated offer, one for an unknown digest and one by whoever writes to Redis are dropped."""
    old = keys.digest(key["key"], control.settings.security.peppers[0][1])
    change_pepper(control)
    peppers = control.settings.security.peppers
    right = offer_of(key["key"], old, peppers)
    forged = dataclasses.replace(right, new=keys.digest("text of a thief", NEW[1]))
    await carrying.offer(redis, [forged])
    await redis.hset(carrying.NAME, "nonsense", "{}")
    await jobs.carry()
    assert (await needs(admin))["p1"]["keys"] == 1
    for _ in range(2):
        await carrying.offer(redis, [right, offer_of("nobody's", "unknown digest", peppers)])
        await jobs.carry()
    assert await redis.hlen(carrying.NAME) == 0
    revision = (await admin.get(f"/v1/keys/{key['id']}")).body["revision"]
    assert revision == key["revision"] + 1


async def test_a_request_is_known_again_after_the_change(admin: Api, control: Control) -> None:
    """What was sent before the change and is repeated after it has no second effect."""
    first = await admin.post("/v1/accounts", {"name": "Once"}, Idempotency_Key="once")
    change_pepper(control)
    again = await admin.post("/v1/accounts", {"name": "Once"}, Idempotency_Key="once")
    assert again.body == first.body
    other = await admin.post("/v1/accounts", {"name": "Other"}, Idempotency_Key="once")
    assert other.status == 422


async def test_a_token_is_carried_over_when_it_is_used(admin: Api, control: Control) -> None:
    """The admin's token, made under the old pepper, is known under the new one after its first use."""
    change_pepper(control)
    assert (await needs(admin)).get("p1", {}).get("tokens", 0) == 0
    assert (await needs(admin))["p2"]["tokens"] == 1
    peppers = control.settings.security.peppers
    alone = dataclasses.replace(control.settings.security, peppers=(peppers[0],))
    control.settings = dataclasses.replace(control.settings, security=alone)
    assert (await admin.get("/v1/keys")).status == 200
    entries = (await admin.get("/v1/audit")).body["items"]
    assert [each["action"] for each in entries if each["actor"] == "change of peppers"] == ["token.carry"]


async def test_a_pepper_that_is_missing_is_told(admin: Api, control: Control, key: dict[str, Any]) -> None:
    """What needs a pepper that is not configured is shown, and nothing is sealed anew half-way."""
    await admin.patch(f"/v1/keys/{key['id']}", {"signing_secret": "word"})
    change_pepper(control)
    await admin.get("/v1/keys")
    alone = dataclasses.replace(control.settings.security, peppers=(NEW,))
    control.settings = dataclasses.replace(control.settings, security=alone)
    found = await needs(admin)
    assert (found["p1"]["configured"], found["p1"]["keys"], found["p1"]["secrets"]) == (False, 1, 1)
    refused = await admin.post("/v1/peppers/reseal")
    assert refused.status == 409
    assert "p1" in refused.body["detail"]
