"""Keys over the control API: made, changed, rotated, held and ended."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.resources import Control
from gateway.sealing import unseal
from gateway.settings import Settings
from policies import keys as texts
from policies.record import KeyRecord
from tests.gateway.control.conftest import NOON, Api, Clock
from tests.gateway.control.counting import count
from tests.metering.records import fetch_record, find_record


async def found(redis: Redis, settings: Settings, text: str) -> KeyRecord | None:
    """Return what a gateway finds under a key's text."""
    return await find_record(redis, texts.digest(text, settings.security.peppers[0][1]))


async def test_a_new_key_works_at_once(key: dict[str, Any], redis: Redis, settings: Settings) -> None:
    """When the answer with the key's text is there, the gateways know the key."""
    assert texts.is_well_formed(key["key"])
    assert key["in_force"] is True
    record = await found(redis, settings, key["key"])
    assert record is not None
    assert record.key_id == key["id"]


async def test_the_text_is_told_once(admin: Api, key: dict[str, Any]) -> None:
    """Later answers show the last four characters, never the text."""
    shown = await admin.get(f"/v1/keys/{key['id']}")
    listed = await admin.get("/v1/keys")
    assert shown.body["credentials"][0]["hint"] == key["key"][-4:]
    assert key["key"] not in shown.text + listed.text
    assert "digest" not in shown.text


async def test_a_key_is_bought_when_it_is_made(admin: Api, account: str, key: dict[str, Any]) -> None:
    """A key of a paid plan is in its free month at once, unless it is not bought yet (contract OT-2)."""
    assert key["purchased_at"] == NOON.isoformat().replace("+00:00", "Z")
    assert (key["in_trial"], key["limit_now"]) == (True, 100_000)
    unbought = await admin.post("/v1/keys", {"account_id": account, "plan": "K3", "purchased_at": None})
    assert (unbought.body["in_trial"], unbought.body["limit_now"]) == (False, 10_000)
    sandbox = await admin.post("/v1/keys", {"account_id": account, "plan": "sandbox"})
    assert (sandbox.body["purchased_at"], sandbox.body["limit_now"]) == (None, 5_000)


@pytest.mark.parametrize(
    ("days", "in_trial"), [(timedelta(days=7), True), (timedelta(days=7, seconds=1), False)]
)
async def test_the_seventh_day_is_included(admin: Api, days: timedelta, in_trial: bool) -> None:
    """A key bought exactly seven days after the first request has a free month, a second later none."""
    made = await admin.post("/v1/accounts", {"name": "A", "first_request_at": (NOON - days).isoformat()})
    key = await admin.post("/v1/keys", {"account_id": made.body["id"], "plan": "K3"})
    assert key.body["in_trial"] is in_trial


@pytest.mark.parametrize(
    ("days", "in_trial"), [(timedelta(days=7), True), (timedelta(days=7, seconds=1), False)]
)
async def test_a_purchase_is_the_first_request_of_the_next_ones(
    admin: Api, account: str, key: dict[str, Any], clock: Clock, days: timedelta, in_trial: bool
) -> None:
    """Without a request on record the days for a free month begin with the first purchase, once for all."""
    clock.now += days
    later = await admin.post("/v1/keys", {"account_id": account, "plan": "K3"})
    assert later.body["in_trial"] is in_trial
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["in_trial"] is True
    first_request = (await admin.get(f"/v1/accounts/{account}")).body["first_request_at"]
    assert first_request == key["purchased_at"]


async def test_the_free_month_ends_with_a_short_month(admin: Api, account: str, clock: Clock) -> None:
    """Bought on 31 January, it lasts until 28 February begins in the billing timezone."""
    clock.now = clock.now.fromisoformat("2027-01-31T23:00:00+03:00")
    body = {"account_id": account, "plan": "K3", "purchased_at": "2027-01-31T12:00:00+03:00"}
    key = (await admin.post("/v1/keys", body)).body
    limits = {}
    for now in ("2027-02-27T23:59:59+03:00", "2027-02-28T00:00:00+03:00"):
        clock.now = clock.now.fromisoformat(now)
        limits[now[:10]] = (await admin.get(f"/v1/keys/{key['id']}")).body["limit_now"]
    assert limits == {"2027-02-27": 100_000, "2027-02-28": 10_000}


@pytest.mark.parametrize(
    ("now", "standing"),
    [
        ("2026-11-17T23:59:59+03:00", "active"),
        ("2026-11-18T00:00:00+03:00", "restricted"),
        ("2026-12-01T23:59:59+03:00", "restricted"),
        ("2026-12-02T00:00:00+03:00", "banned"),
    ],
)
async def test_an_unpaid_invoice_counts_from_its_day(
    admin: Api, key: dict[str, Any], clock: Clock, now: str, standing: str
) -> None:
    """Issued on D, the key is restricted from D+8 and banned from D+22, at local midnight (OT-8, OT-10)."""
    path = f"/v1/keys/{key['id']}"
    assert (await admin.patch(path, {"oldest_unpaid_issued_on": "2026-11-10"})).status == 200
    clock.now = clock.now.fromisoformat(now)
    assert (await admin.get(path)).body["standing"] == standing


async def test_payment_lifts_a_ban(admin: Api, key: dict[str, Any], clock: Clock, redis: Redis) -> None:
    """Clearing the day of the unpaid invoice makes the key active, for the gateways too."""
    path = f"/v1/keys/{key['id']}"
    assert (await admin.patch(path, {"oldest_unpaid_issued_on": "2026-10-01"})).body["standing"] == "banned"
    paid = await admin.patch(path, {"oldest_unpaid_issued_on": None})
    assert (paid.body["standing"], paid.body["in_force"]) == ("active", True)
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert record.oldest_unpaid_issued_on is None
    assert record.revision == paid.body["revision"]


async def test_limits_are_set_and_cleared(admin: Api, key: dict[str, Any]) -> None:
    """A limit on the key outranks the plan's; null gives that one back; unlimited lifts both."""
    path = f"/v1/keys/{key['id']}"
    changed = await admin.patch(path, {"daily_limit": 7, "window": "rolling_24h"})
    assert (changed.body["limit_now"], changed.body["window_now"]) == (7, "rolling_24h")
    assert (await admin.patch(path, {"unlimited": True})).body["limit_now"] is None
    back = await admin.patch(path, {"unlimited": False, "daily_limit": None, "window": None})
    assert (back.body["limit_now"], back.body["window_now"]) == (100_000, "day")


async def test_a_change_that_changes_nothing_leaves_no_trace(admin: Api, key: dict[str, Any]) -> None:
    """Setting what is set already makes no revision."""
    same = await admin.patch(f"/v1/keys/{key['id']}", {"site": "shop.example"})
    assert same.body["revision"] == key["revision"]


async def test_a_signing_secret_is_sealed(
    admin: Api, key: dict[str, Any], redis: Redis, settings: Settings
) -> None:
    """The secret can be read back by a gateway and is shown to nobody."""
    changed = await admin.patch(f"/v1/keys/{key['id']}", {"signing_secret": "very-secret-words"})
    assert changed.body["signed"] is True
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert record.signing_secret is not None
    assert unseal(record.signing_secret, settings.security.peppers) == "very-secret-words"
    everything = changed.text + (await admin.get("/v1/audit")).text + record.to_json()
    assert "very-secret-words" not in everything


async def test_a_rotation_overlaps(admin: Api, key: dict[str, Any], redis: Redis, settings: Settings) -> None:
    """Both texts lead to the key; the old one ends after the overlap that was asked for."""
    rotated = await admin.post(f"/v1/keys/{key['id']}/rotate", {"overlap_s": 60})
    assert rotated.status == 200
    assert rotated.body["key"] != key["key"]
    for text in (key["key"], rotated.body["key"]):
        record = await found(redis, settings, text)
        assert record is not None
        assert record.key_id == key["id"]
        assert sorted(record.credentials.values(), key=str) == [NOON.timestamp() + 60, None]


@pytest.mark.parametrize(
    ("action", "standing", "before"),
    [
        ("suspend", "suspended", None),
        ("revoke", "closed", None),
        ("close", "closed", None),
        ("resume", "active", "suspend"),
    ],
)
async def test_a_key_is_held_and_ended(
    admin: Api, key: dict[str, Any], redis: Redis, action: str, standing: str, before: str | None
) -> None:
    """Each action shows in the answer and in what the gateways know, and doing it twice is no error."""
    path = f"/v1/keys/{key['id']}"
    if before is not None:
        await admin.post(f"{path}/{before}")
    for _ in range(2):
        done = await admin.post(f"{path}/{action}")
        assert (done.status, done.body["standing"], done.body["in_force"]) == (200, standing, True)
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert record.suspended is (action == "suspend")


async def test_a_suspension_keeps_its_reason(admin: Api, key: dict[str, Any]) -> None:
    """Why a key is held is shown until it is resumed."""
    path = f"/v1/keys/{key['id']}"
    held = await admin.post(f"{path}/suspend", {"reason": "abuse of search"})
    assert held.body["suspended_reason"] == "abuse of search"
    assert (await admin.post(f"{path}/resume")).body["suspended_reason"] is None


async def test_a_service_ends_later(admin: Api, key: dict[str, Any], clock: Clock) -> None:
    """A closing date in the future leaves the key working until then; one in the past is refused (OT-14)."""
    path = f"/v1/keys/{key['id']}"
    assert (await admin.post(f"{path}/close", {"at": "2026-11-20T00:00:00Z"})).fields == {"body.at"}
    assert (await admin.post(f"{path}/close", {"at": "2026-11-30T00:00:00Z"})).body["standing"] == "active"
    clock.now = clock.now.fromisoformat("2026-11-30T00:00:00+00:00")
    assert (await admin.get(path)).body["standing"] == "closed"


@pytest.mark.parametrize("action", ["rotate", "suspend"])
async def test_what_was_revoked_stays_so(admin: Api, key: dict[str, Any], action: str) -> None:
    """A revoked key gets no new text and cannot be held."""
    path = f"/v1/keys/{key['id']}"
    await admin.post(f"{path}/revoke")
    refused = await admin.post(f"{path}/{action}")
    assert refused.status == 409
    assert "revoked" in refused.body["detail"]


async def test_a_key_shows_what_it_used(
    admin: Api, key: dict[str, Any], redis: Redis, settings: Settings, clock: Clock
) -> None:
    """Units in use are those taken today less those given back."""
    await count(redis, settings, clock, key["id"], calls=5, waived=2)
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["used_now"] == 3
    clock.now += timedelta(days=1)
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["used_now"] == 0


async def test_while_redis_is_away_changes_wait(
    admin: Api, key: dict[str, Any], control: Control, redis: Redis
) -> None:
    """A change is kept and said not to be in force; the periodic job brings it into force later."""
    working = control.redis
    control.redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.2)
    changed = await admin.patch(f"/v1/keys/{key['id']}", {"daily_limit": 3})
    assert (changed.status, changed.body["in_force"], changed.body["limit_now"]) == (200, False, 3)
    shown = await admin.get(f"/v1/keys/{key['id']}")
    assert (shown.body["in_force"], shown.body["used_now"]) == (False, None)
    await control.redis.aclose()
    control.redis = working
    await control.carry_changes()
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert record.daily_limit == 3
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["in_force"] is True


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.account_id", "body.plan"}),
        ({"plan": "K9"}, {"body.plan"}),
        ({"account_id": "shop"}, {"body.account_id"}),
        ({"daily_limit": -1, "window": "week"}, {"body.daily_limit", "body.window"}),
        ({"daily_limit": 2**53}, {"body.daily_limit"}),
        ({"daily_limit": True}, {"body.daily_limit"}),
        ({"daily_limit": 1, "unlimited": True}, {"body.daily_limit"}),
        ({"plan": "sandbox", "purchased_at": "2026-11-20T00:00:00Z"}, {"body.purchased_at"}),
        ({"purchased_at": "yesterday"}, {"body.purchased_at"}),
        ({"purchased_at": "2026-11-22T00:00:00+03:00"}, {"body.purchased_at"}),
        ({"expires_at": "2026-11-21T09:00:00Z"}, {"body.expires_at"}),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, {"body.expires_at"}),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, {"body.expires_at"}),
        ({"signing_secret": ""}, {"body.signing_secret"}),
        ({"key": "tg_mine"}, {"body.key"}),
    ],
)
async def test_a_wrong_key_is_refused(
    admin: Api, account: str, body: dict[str, Any], fields: set[str]
) -> None:
    """A key that cannot be made is refused with every wrong field named."""
    wanted = {"account_id": account, "plan": "K1"} | body if body else {}
    refused = await admin.post("/v1/keys", wanted)
    assert refused.status == 422
    assert refused.fields == fields
    assert (await admin.get("/v1/keys")).body["items"] == []


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"plan": "K2"}, {"body.plan"}),
        ({"oldest_unpaid_issued_on": "10.11.2026"}, {"body.oldest_unpaid_issued_on"}),
        ({"oldest_unpaid_issued_on": "0001-01-01"}, {"body.oldest_unpaid_issued_on"}),
        ({"oldest_unpaid_issued_on": "2126-11-10"}, {"body.oldest_unpaid_issued_on"}),
        ({"unlimited": None}, {"body.unlimited"}),
        ({"unlimited": True, "daily_limit": 4}, {"body.daily_limit"}),
        ({"site": "a\nb", "expires_at": 5}, {"body.site", "body.expires_at"}),
        ({"allow_networks": ["10.0.0.1/8"]}, {"body.allow_networks[1]"}),
        ({"allow_domains": ["ok.example", "https://x"]}, {"body.allow_domains[2]"}),
        ({"allow_networks": ["10.0.0.1"] * 65}, {"body.allow_networks"}),
        ({"allow_domains": None}, {"body.allow_domains"}),
    ],
)
async def test_a_wrong_change_is_refused(
    admin: Api, key: dict[str, Any], body: dict[str, Any], fields: set[str]
) -> None:
    """A change that cannot be made is refused, and the key stays as it is."""
    refused = await admin.patch(f"/v1/keys/{key['id']}", body)
    assert refused.status == 422
    assert refused.fields == fields
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["revision"] == key["revision"]


async def test_lists_of_networks_and_sites_are_kept(
    admin: Api, key: dict[str, Any], redis: Redis, settings: Settings
) -> None:
    """They are stored in one spelling, in force at once, audited, and cleared by an empty list."""
    path = f"/v1/keys/{key['id']}"
    wanted = {"allow_networks": ["203.0.113.7", "2001:DB8::/32"], "allow_domains": ["Shop.Example"]}
    changed = (await admin.patch(path, wanted)).body
    stored = {"allow_networks": ["203.0.113.7/32", "2001:db8::/32"], "allow_domains": ["shop.example"]}
    assert {name: changed[name] for name in stored} == stored
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert (record.allow_networks, record.allow_domains) == (
        tuple(stored["allow_networks"]),
        tuple(stored["allow_domains"]),
    )
    entry = (await admin.get(f"/v1/audit?object={key['id']}")).body["items"][0]
    assert entry["action"] == "key.change"
    assert entry["before"] == {"allow_networks": [], "allow_domains": []}
    assert entry["after"] == stored
    assert (await admin.patch(path, wanted)).body["revision"] == changed["revision"]
    cleared = (await admin.patch(path, {"allow_networks": [], "allow_domains": []})).body
    assert (cleared["allow_networks"], cleared["allow_domains"]) == ([], [])


async def test_a_key_is_made_and_imported_with_lists(admin: Api, account: str) -> None:
    """A new key and an imported one carry their lists from the start."""
    lists = {"allow_networks": ["10.0.0.0/8"], "allow_domains": ["shop.example"]}
    made = (await admin.post("/v1/keys", {"account_id": account, "plan": "K1", **lists})).body
    entry = {"account_id": account, "plan": "K1", "credential": "imported-key-1", **lists}
    (imported,) = (await admin.post("/v1/keys/import", {"keys": [entry]})).body["ids"]
    for key_id in (made["id"], imported):
        shown = (await admin.get(f"/v1/keys/{key_id}")).body
        assert {name: shown[name] for name in lists} == lists


async def test_a_list_holds_for_what_a_key_opens_here(admin: Api, key: dict[str, Any]) -> None:
    """A client site's own usage is told only where its key may be used."""
    path, own = f"/v1/keys/{key['id']}", Api(admin.client, None)
    await admin.patch(path, {"allow_networks": ["203.0.113.0/24"]})
    refused = await own.get("/v1/me/usage", **{"X-Api-Key": key["key"]})
    assert (refused.status, refused.body["type"]) == (403, "tallygate:problem:address-not-allowed")
    await admin.patch(path, {"allow_networks": ["127.0.0.0/8"], "allow_domains": ["shop.example"]})
    assert (await own.get("/v1/me/usage", **{"X-Api-Key": key["key"]})).status == 403
    page = {"X-Api-Key": key["key"], "Origin": "https://www.shop.example"}
    assert (await own.get("/v1/me/usage", **page)).status == 200


async def test_a_sandbox_key_cannot_be_bought_later(admin: Api, account: str) -> None:
    """A date of purchase is refused for a free key."""
    key = (await admin.post("/v1/keys", {"account_id": account, "plan": "sandbox"})).body
    refused = await admin.patch(f"/v1/keys/{key['id']}", {"purchased_at": "2026-11-20T00:00:00Z"})
    assert refused.fields == {"body.purchased_at"}


@pytest.mark.parametrize("action", ["", "/rotate", "/revoke", "/suspend", "/resume", "/close"])
async def test_an_unknown_key_is_not_found(admin: Api, action: str) -> None:
    """Whatever is to be done with a key that does not exist answers 404."""
    verb = "POST" if action else "GET"
    assert (await admin.call(verb, f"/v1/keys/key_0123456789abcdef{action}")).status == 404
    assert (await admin.post("/v1/keys", {"account_id": "acc_0123456789abcdef", "plan": "K1"})).status == 404


@pytest.mark.parametrize("overlap", [-1, 1e9, "60", None])
async def test_an_overlap_has_bounds(admin: Api, key: dict[str, Any], overlap: Any) -> None:
    """A rotation's overlap is a number of seconds up to 90 days."""
    refused = await admin.post(f"/v1/keys/{key['id']}/rotate", {"overlap_s": overlap})
    assert refused.fields == {"body.overlap_s"}


async def test_keys_are_listed_by_account(admin: Api, account: str, key: dict[str, Any]) -> None:
    """The list can be narrowed to an account, and an account without keys has an empty one."""
    other = (await admin.post("/v1/accounts", {"name": "Other"})).body["id"]
    assert [each["id"] for each in (await admin.get(f"/v1/keys?account={account}")).body["items"]] == [
        key["id"]
    ]
    assert (await admin.get(f"/v1/keys?account={other}")).body["items"] == []


async def test_a_plan_that_is_gone_stops_a_key(
    admin: Api, key: dict[str, Any], engine: AsyncEngine, control: Control, settings: Settings
) -> None:
    """A key whose plan is no longer configured shows as suspended instead of failing."""
    del control.settings.contract.plans["K1"]  # type: ignore[attr-defined]
    assert (await admin.get(f"/v1/keys/{key['id']}")).body["standing"] == "suspended"


async def test_answers_are_json_with_exact_numbers(admin: Api, account: str) -> None:
    """The largest limit comes back as it was given."""
    made = await admin.post("/v1/keys", {"account_id": account, "plan": "K1", "daily_limit": 2**53 - 1})
    assert json.loads(made.text)["limit_now"] == 2**53 - 1


async def test_a_key_does_not_end_before_it_served(admin: Api, account: str, clock: Clock) -> None:
    """An end in the past would take days that were served off the bill; one that came may be sent again."""
    key = (await admin.post("/v1/keys", {"account_id": account, "plan": "K3"})).body
    path, hour = f"/v1/keys/{key['id']}", timedelta(hours=1)
    refused = await admin.patch(path, {"expires_at": (NOON - hour).isoformat()})
    assert refused.fields == {"body.expires_at"}
    ends = {"expires_at": (NOON + hour).isoformat()}
    assert (await admin.patch(path, ends)).status == 200
    clock.now = NOON + 2 * hour
    assert (await admin.patch(path, ends)).status == 200
    assert (await admin.get(path)).body["standing"] == "closed"
