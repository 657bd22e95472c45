"""From a call to its bill and back: what the control API issues and is paid decides the very next call.

One data path and one control API over the same stores, and a clock that both believe.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from gateway.settings import Settings
from tests.gateway.control.conftest import (  # noqa: F401 - fixtures
    Answer,
    Api,
    Clock,
    admin,
    as_role,
    client,
    clock,
    uptime,
)
from tests.gateway.proxy.calls import OFFICIAL
from tests.origin import Origin, origin
from tests.rig import Rig, example_settings, rig, until

PRICES = """
[[plans.K1.versions]]
version = 1
announced_at = 2025-12-01
effective_from = 2026-01-01
model = "per_unit"
tiers = [{ unit = "10.00" }]
"""
AUGUST = datetime(2026, 8, 25, 9, 0, tzinfo=UTC)  # so that the free month is over in October
OCTOBER = datetime(2026, 10, 5, 9, 0, tzinfo=UTC)
CLOSING = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
ISSUING = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
LAST_SECOND = datetime(2026, 11, 17, 20, 59, 59, tzinfo=UTC)  # of 17 November in Moscow
RESTRICTED = datetime(2026, 11, 17, 21, 0, tzinfo=UTC)
BANNED = datetime(2026, 12, 1, 21, 0, tzinfo=UTC)


@dataclass
class Site:
    """A client site with its key, its seller's control API, and the path that its calls take."""

    path: Rig
    api: Api
    clock: Clock
    upstream: Origin
    account: str = ""
    key: str = ""
    posts: int = 0

    def at(self, moment: datetime) -> None:
        """Set the time for both."""
        self.clock.now = moment
        self.path.now = moment.timestamp()

    async def post(self, path: str, body: Any) -> Answer:
        """POST to the control API; it must succeed."""
        self.posts += 1
        done = await self.api.post(path, body, Idempotency_Key=f"test-{self.posts}")
        assert done.status < 300, done.text
        return done

    async def search(self, *, official: bool = False) -> str:
        """Search once through the proxy; returns the ErrorCode that the site sees."""
        parameters = quote(OFFICIAL if official else "<SearchItemsParameters/>")
        target = f"/service-json/SearchItemsFrame?instanceKey={self.key}&xmlParameters={parameters}"
        answer = await self.path.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return str(answer.json()["ErrorCode"])


@pytest.fixture
async def upstream() -> AsyncIterator[Origin]:
    """The marketplace."""
    async with origin() as made:
        yield made


@pytest.fixture
def settings(upstream: Origin) -> Settings:
    """The example's settings, for the path and for the control API."""
    return example_settings(upstream.port)


@pytest.fixture
async def site(
    redis: Redis,
    valkey_url: str,
    upstream: Origin,
    settings: Settings,
    admin: Api,  # noqa: F811 - the fixture
    clock: Clock,  # noqa: F811 - the fixture
) -> AsyncIterator[Site]:
    """A site that made three calls in October, and was billed 30.00 for them on 10 November."""
    async with rig(valkey_url, upstream, settings) as path:
        made = Site(path, admin, clock, upstream)
        made.at(AUGUST)
        await made.post("/v1/plans/apply", {"toml": PRICES})
        made.account = (await made.post("/v1/accounts", {"name": "Shop"})).body["id"]
        key = await made.post("/v1/keys", {"account_id": made.account, "plan": "K1"})
        made.key = key.body["key"]
        made.at(OCTOBER)
        assert [await made.search() for _ in range(3)] == ["Ok"] * 3
        await until(lambda: path.proxy.counters.pending == 0)
        made.at(CLOSING)
        await made.post("/v1/invoices/close", {"period": "2026-10"})
        made.at(ISSUING)
        issued = (await made.post("/v1/invoices/issue", {"period": "2026-10"})).body
        assert (issued["totals"], issued["in_force"]) == ({"USD": "30.00"}, True)
        yield made


async def test_an_unpaid_invoice_restricts_the_next_call_and_payment_frees_it(site: Site) -> None:
    """Until the last second of the last day all is answered; then a search is refused, an official one not;
    the call after the payment is answered, and the one after its reversal is refused again."""
    site.at(LAST_SECOND)
    assert await site.search() == "Ok"
    site.at(RESTRICTED)
    reached = len(site.upstream.received)
    assert await site.search() == "ContractViolation"
    assert len(site.upstream.received) == reached
    assert await site.search(official=True) == "Ok"
    paid = await site.post("/v1/payments", {"account_id": site.account, "amount": "30.00"})
    assert paid.body["in_force"]
    assert await site.search() == "Ok"
    await site.post(f"/v1/payments/{paid.body['id']}/reverse", {"reason": "charged back"})
    assert await site.search() == "ContractViolation"


async def test_a_ban_holds_until_all_is_paid(site: Site) -> None:
    """From the ban on not even an official search is answered; a part of the amount lifts nothing."""
    site.at(BANNED)
    assert await site.search(official=True) != "Ok"
    await site.post("/v1/payments", {"account_id": site.account, "amount": "29.99"})
    assert await site.search(official=True) != "Ok"
    await site.post("/v1/payments", {"account_id": site.account, "amount": "0.01"})
    assert [await site.search(), await site.search(official=True)] == ["Ok", "Ok"]


async def test_a_dispute_frees_the_next_call_and_its_rejection_takes_that_back(site: Site) -> None:
    """While the whole of it is in dispute an invoice does not count as unpaid, day for day."""
    site.at(RESTRICTED)
    assert await site.search() == "ContractViolation"
    [invoice] = (await site.api.get("/v1/invoices")).body["items"]
    opened = await site.post(
        "/v1/disputes",
        {"invoice_id": invoice["id"], "position": 1, "evidence": "x", "determined_on": "2026-11-12"},
    )
    assert await site.search() == "Ok"
    path = f"/v1/disputes/{opened.body['id']}/resolve"
    await site.post(path, {"accepted": False, "resolution": "each was answered once"})
    assert await site.search() == "ContractViolation"
