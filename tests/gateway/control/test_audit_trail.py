"""Every change leaves its trace: who, what, from what, to what."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.app import OPERATIONS
from gateway.control.resources import Control
from metering.ledger import tables
from tests.gateway.control.bills import PRICES, Shop
from tests.gateway.control.conftest import Answer, Api, Clock
from tests.gateway.control.interrupting import interrupted

# It writes down what was counted, and may be repeated at will: nobody decides anything by it.
DECIDE_NOTHING = {"rollUp"}


class Walk:
    """One pass through everything that changes something, by one token."""

    def __init__(self, api: Api, shop: Shop) -> None:
        self.api = api
        self.shop = shop
        self.done: dict[str, Answer] = {}
        self.untraced: list[str] = []

    async def do(self, name: str, path: str = "", body: Any = None) -> Any:
        """Carry an operation out, and look for its rows in the audit log; returns the answer's body."""
        operation = next(each for each in OPERATIONS if each.name == name)
        headers = {"Idempotency_Key": f"walk-{name}"} if operation.once else {}
        if operation.body is not None and body is None:
            body = {}
        answer = await self.api.call(operation.verb, path or operation.path, body, **headers)
        assert answer.status < 300, f"{name}: {answer.text}"
        self.done[name] = answer
        rows = await self.rows(answer.headers["X-Request-Id"])
        if not any(row.before is not None or row.after is not None for row in rows):
            self.untraced.append(name)
        for row in rows:
            assert row.actor.startswith("tok_"), f"{name} was done by {row.actor}"
            assert row.actor.endswith("(admin for tests)"), f"{name} was done by {row.actor}"
            assert row.action
            assert row.object_id
        return answer.body

    async def rows(self, request_id: str) -> list[Any]:
        """Return the audit rows of a request."""
        query = sa.select(tables.audit).where(tables.audit.c.request_id == request_id)
        async with self.shop.engine.connect() as connection:
            return list((await connection.execute(query)).all())


async def test_every_change_is_audited(
    admin: Api, engine: AsyncEngine, clock: Clock, control: Control, redis: Redis
) -> None:
    """Each operation that is no GET writes rows with the token that did it and what was before and after."""
    shop = Shop(admin, engine, clock)
    walk = Walk(admin, shop)
    now = clock.now
    await _prices_and_keys(walk)
    await shop.open()
    await shop.count(date(2026, 10, 5), 1_200)
    await _bills(walk, redis)
    clock.now = now
    await _tokens_and_webhooks(walk)
    await walk.do("rebuild")
    security = control.settings.security
    changed = dataclasses.replace(security, peppers=(("p2", b"n" * 32), *security.peppers))
    control.settings = dataclasses.replace(control.settings, security=changed)
    await walk.do("resealSecrets")
    assert walk.untraced == []
    changing = {each.name for each in OPERATIONS if each.verb != "GET"}
    assert set(walk.done) == changing - DECIDE_NOTHING


async def _prices_and_keys(walk: Walk) -> None:
    second = PRICES.replace("version = 1", "version = 2").replace("2026-01-01", "2027-02-01")
    await walk.do("applyPrices", body={"toml": PRICES + second})
    account = (await walk.do("createAccount", body={"name": "Walk"}))["id"]
    await walk.do("changeAccount", f"/v1/accounts/{account}", {"main_domain": "walk.example"})
    key = (await walk.do("createKey", body={"account_id": account, "plan": "K1"}))["id"]
    await walk.do("announcePrices", "/v1/plans/K1/announce")
    entry = {"account_id": account, "plan": "K1", "credential": "imported-key-1"}
    await walk.do("importKeys", body={"keys": [entry]})
    change = {"daily_limit": 5, "allow_networks": ["10.0.0.0/8"], "signing_secret": "word"}
    await walk.do("changeKey", f"/v1/keys/{key}", change)
    await walk.do(
        "moveSubscription", f"/v1/subscriptions/{key}/move", {"version": 2, "first_day": "2027-02-01"}
    )
    for action in ("rotate", "suspend", "resume", "close"):
        await walk.do(f"{action}Key", f"/v1/keys/{key}/{action}")
    other = (await walk.do("createKey", body={"account_id": account, "plan": "K1"}))["id"]
    await walk.do("revokeKey", f"/v1/keys/{other}/revoke")
    await walk.do("closeAccount", f"/v1/accounts/{account}/close")


async def _bills(walk: Walk, redis: Redis) -> None:
    shop = walk.shop

    def doing(name: str) -> Callable[[str, Any], Awaitable[Answer]]:
        async def post(path: str, body: Any) -> Answer:
            await walk.do(name, path, body)
            return walk.done[name]

        return post

    ordinary = shop.post
    shop.post = lambda path, body: doing("closeMonth" if path.endswith("close") else "issueMonth")(path, body)  # type: ignore[method-assign]
    invoice = await shop.bill()
    shop.post = ordinary  # type: ignore[method-assign]
    paid = await walk.do("receivePayment", body={"account_id": shop.account, "amount": "25.00"})
    await walk.do("reversePayment", f"/v1/payments/{paid['id']}/reverse", {"reason": "by mistake"})
    objection = {"invoice_id": invoice, "position": 1, "evidence": "none", "determined_on": "2026-11-09"}
    dispute = await walk.do("openDispute", body=objection)
    verdict = {"accepted": False, "resolution": "no"}
    await walk.do("resolveDispute", f"/v1/disputes/{dispute['id']}/resolve", verdict)
    await walk.do("voidInvoice", f"/v1/invoices/{invoice}/void", {"reason": "a mistake"})
    await walk.do("passOverNumbers", body={"through": "INV-000007", "reason": "issued before a loss"})
    noticed = await interrupted(walk.api, redis)
    await walk.do("acknowledgeInterruption", f"/v1/interruptions/{noticed}/acknowledge", {"reason": "no"})
    async with shop.engine.begin() as connection:
        await connection.execute(sa.update(tables.notice_deliveries).values(state="failed"))
    notice = (await walk.api.get(f"/v1/notices?account={shop.account}")).body["items"][0]
    await walk.do("retryNotice", f"/v1/notices/{notice['id']}/retry")


async def _tokens_and_webhooks(walk: Walk) -> None:
    hook = await walk.do("createWebhook", body={"url": "https://hooks.example/x"})
    await walk.do("disableWebhook", f"/v1/webhooks/{hook['id']}")
    token = await walk.do("createToken", body={"name": "walk", "role": "ops"})
    await walk.do("revokeToken", f"/v1/tokens/{token['id']}")


async def test_the_trail_itself_cannot_be_changed(admin: Api) -> None:
    """No operation touches the audit log; it is read, and nothing else."""
    about = [(each.name, each.verb) for each in OPERATIONS if "audit" in each.path]
    assert about == [("listAudit", "GET")]
