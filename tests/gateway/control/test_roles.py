"""Who may do what: every operation with every role, and with no right token at all."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from gateway.control.app import OPERATIONS
from gateway.control.auth import FAILURES_ALLOWED, Role, is_token, issue_token
from gateway.control.resources import Control
from policies import keys
from tests.gateway.control.conftest import Api, Clock

PRICES = {"listPlans", "showPlan", "showPrice", "listSubscriptions", "showSubscription"}
READING = {"listAccounts", "showAccount", "listKeys", "showKey", "showUsage", "showReasons"} | PRICES
BILLS = {
    "listInvoices",
    "showInvoice",
    "listPayments",
    "showPayment",
    "showBalance",
    "listDisputes",
    "showDispute",
    "listCreditNotes",
    "showCreditNote",
    "exportFocus",
    "showFocusSchema",
    "reconcile",
} | {"listInterruptions", "showInterruption"}
NOTICES = {"listNotices", "showNotice"}
BILLING = {
    "applyPrices",
    "announcePrices",
    "moveSubscription",
    "closeMonth",
    "issueMonth",
    "voidInvoice",
    "receivePayment",
    "reversePayment",
    "openDispute",
    "resolveDispute",
    "passOverNumbers",
    "acknowledgeInterruption",
    "retryNotice",
    "createWebhook",
    "listWebhooks",
    "disableWebhook",
}
HOLDING = {"suspendKey", "resumeKey"}
OPERATING = {"listAudit", "rollUp", "rebuild", "metrics", "retryNotice", "reconcile"}
MAY: dict[Role, set[str]] = {
    Role.SUPPORT: READING | HOLDING | BILLS | NOTICES | {"openDispute"},
    Role.OPS: READING
    | HOLDING
    | NOTICES
    | {"listAudit", "rollUp", "rebuild", "metrics", "retryNotice", "reconcile"}
    | {"listInterruptions", "showInterruption"}
    | {"listPeppers", "resealSecrets"},
    Role.BILLING: READING
    | BILLS
    | NOTICES
    | BILLING
    | {"createAccount", "changeAccount", "closeAccount", "changeKey", "closeKey", "listAudit"},
    Role.ADMIN: {operation.name for operation in OPERATIONS if operation.rights},
}
UNKNOWN = "tgc_" + keys.issue(bytes(16)).removeprefix("tg_")
OWN = {"showOwnUsage", "listOwnInvoices", "showOwnInvoice"}
OPEN = {"health", "readiness", "openapi"} | OWN


async def call(api: Api, name: str) -> int:
    """Call an operation with an empty body and made-up identifiers; return the status."""
    operation = next(each for each in OPERATIONS if each.name == name)
    path = re.sub(r"{(\w{3})\w*}", r"\1_0123456789abcdef", operation.path)
    body: Any = {} if operation.body is not None else None
    return (await api.call(operation.verb, path, body)).status


@pytest.mark.parametrize("role", list(Role))
async def test_each_role_has_its_rights_and_no_others(
    as_role: Callable[[Role], Awaitable[Api]], role: Role
) -> None:
    """An operation answers 403 exactly to the roles that it is not for."""
    api = await as_role(role)
    allowed = {each.name for each in OPERATIONS if each.rights and await call(api, each.name) != 403}
    assert allowed == MAY[role]


async def test_nothing_else_is_open(client: TestClient[Any, Any]) -> None:
    """Without a token everything is closed but health, readiness and the description."""
    api = Api(client, None)
    answers = {each.name: await call(api, each.name) for each in OPERATIONS}
    assert {name for name, status in answers.items() if status != 401} == OPEN - OWN


async def test_billing_sets_dates_and_nothing_else(
    as_role: Callable[[Role], Awaitable[Api]], key: dict[str, Any]
) -> None:
    """A billing token may set the day of an unpaid invoice, and no limit, not even beside it."""
    billing = await as_role(Role.BILLING)
    path = f"/v1/keys/{key['id']}"
    assert (await billing.patch(path, {"oldest_unpaid_issued_on": "2026-11-10"})).status == 200
    refused = await billing.patch(path, {"oldest_unpaid_issued_on": None, "daily_limit": 1})
    assert refused.status == 403
    assert (await billing.get(path)).body["oldest_unpaid_issued_on"] == "2026-11-10"


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Basic dGVzdDp0ZXN0",
        "Bearer tgc_00000000000000000000000000000000",
        "Bearer tgc_\u00e9",
        f"Bearer {UNKNOWN}",
    ],
)
async def test_a_wrong_token_opens_nothing(client: TestClient[Any, Any], header: str) -> None:
    """What is no token of this ledger answers 401 and says how to send one."""
    refused = await Api(client, None).get("/v1/keys", Authorization=header)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_site_key_is_no_token(client: TestClient[Any, Any], key: dict[str, Any]) -> None:
    """The key of a client site opens none of the operators' paths."""
    assert (await Api(client, key["key"]).get("/v1/keys")).status == 401


async def test_guessing_is_slowed_down(client: TestClient[Any, Any], admin: Api, clock: Clock) -> None:
    """After many wrong tokens the address has to wait, with the right one too."""
    guesser = Api(client, issue_token())
    statuses = [(await guesser.get("/v1/keys")).status for _ in range(FAILURES_ALLOWED + 1)]
    assert statuses == [401] * FAILURES_ALLOWED + [429]
    refused = await admin.get("/v1/keys")
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 61


async def test_a_token_ends(admin: Api, client: TestClient[Any, Any], clock: Clock) -> None:
    """A token works until its date or until it is revoked."""
    body = {"name": "temp", "role": "admin", "expires_at": (clock.now + timedelta(hours=1)).isoformat()}
    made = (await admin.post("/v1/tokens", body)).body
    temp = Api(client, made["token"])
    assert is_token(made["token"])
    assert (await temp.get("/v1/keys")).status == 200
    clock.now += timedelta(hours=1)
    assert (await temp.get("/v1/keys")).status == 401
    clock.now -= timedelta(minutes=1)
    assert (await admin.call("DELETE", f"/v1/tokens/{made['id']}")).body["revoked_at"] is not None
    assert (await temp.get("/v1/keys")).status == 401


async def test_a_token_is_told_once(admin: Api) -> None:
    """The list of tokens shows names and roles, and no token's text."""
    made = (await admin.post("/v1/tokens", {"name": "bot", "role": "ops"})).body
    listed = await admin.get("/v1/tokens")
    assert {(each["name"], each["role"]) for each in listed.body["items"]} == {
        ("admin for tests", "admin"),
        ("bot", "ops"),
    }
    assert made["token"] not in listed.text
    assert "digest" not in listed.text


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.name", "body.role"}),
        ({"name": "x", "role": "root"}, {"body.role"}),
        ({"name": "x", "role": "ops", "expires_at": "soon"}, {"body.expires_at"}),
        ({"name": "x", "role": "ops", "expires_at": "2020-01-01T00:00:00Z"}, {"body.expires_at"}),
    ],
)
async def test_a_wrong_token_is_not_made(admin: Api, body: dict[str, Any], fields: set[str]) -> None:
    """A token needs a name and one of the roles."""
    assert (await admin.post("/v1/tokens", body)).fields == fields


async def test_a_token_that_was_right_is_not_locked_out(
    client: TestClient[Any, Any], admin: Api, clock: Clock
) -> None:
    """Guesses from behind the same proxy keep nobody out whose token has worked before and still does."""
    made = (await admin.post("/v1/tokens", {"name": "bot", "role": "ops"})).body
    bot = Api(client, made["token"])
    assert (await bot.get("/v1/keys")).status == 200
    guesser = Api(client, issue_token())
    for _ in range(FAILURES_ALLOWED + 1):
        await guesser.get("/v1/keys")
    assert (await guesser.get("/v1/keys")).status == 429
    assert (await bot.get("/v1/keys")).status == 200
    assert (await admin.call("DELETE", f"/v1/tokens/{made['id']}")).status == 200
    assert [(await bot.get("/v1/keys")).status for _ in range(2)] == [401, 429]


async def test_a_token_sent_in_place_of_a_key_still_opens_what_it_did(
    client: TestClient[Any, Any], admin: Api
) -> None:
    """A slip of an operator is a failure like any other, and loses nobody what has worked before."""
    assert (await admin.get("/v1/keys")).status == 200
    assert (await admin.get("/v1/me/usage")).status == 401
    guesser = Api(client, issue_token())
    for _ in range(FAILURES_ALLOWED):
        await guesser.get("/v1/keys")
    assert (await guesser.get("/v1/keys")).status == 429
    assert (await admin.get("/v1/keys")).status == 200


async def test_failures_count_for_the_client_behind_a_proxy(
    client: TestClient[Any, Any], admin: Api, control: Control
) -> None:
    """Behind a trusted proxy each client is held off for itself; of others the field counts for nothing."""
    guesser, text = Api(client, issue_token()), issue_token()
    settings = control.settings
    trusting = dataclasses.replace(settings.server, trusted_proxies=("127.0.0.0/8",))
    control.settings = dataclasses.replace(settings, server=trusting)
    for _ in range(FAILURES_ALLOWED):
        await guesser.get("/v1/keys", **{"X-Forwarded-For": "6.6.6.6, 192.0.2.1"})
    held = await Api(client, text).get("/v1/keys", **{"X-Forwarded-For": "192.0.2.1"})
    free = await Api(client, text).get("/v1/keys", **{"X-Forwarded-For": "192.0.2.2"})
    assert (held.status, free.status) == (429, 401)
    control.settings = settings
    claimed = await Api(client, text).get("/v1/keys", **{"X-Forwarded-For": "192.0.2.1"})
    assert claimed.status == 401
