"""A shop with a price, a key and a month of counts, for tests of bills."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.gateway.control.conftest import Answer, Api, Clock
from tests.metering.ledger_lines import put_line

# A moment in September, before the counts, at which the account and the key are made.
SEPTEMBER = datetime(2026, 9, 1, 9, 0, tzinfo=UTC)
CLOSING = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
ISSUING = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)

PRICES = """
[[plans.K1.versions]]
version = 1
announced_at = 2025-12-01
effective_from = 2026-01-01
model = "graduated"
tiers = [{ up_to = 1000, unit = "0.10" }, { unit = "0.05" }]
minimum = "100.00"
"""


class Shop:
    """One customer, seen by the one who bills."""

    def __init__(self, api: Api, engine: AsyncEngine, clock: Clock) -> None:
        self.api = api
        self.engine = engine
        self.clock = clock
        self.account = ""
        self.key = ""
        self._posts = 0

    async def open(self) -> None:
        """Apply prices and make the account and its key, as of September."""
        self.clock.now = SEPTEMBER
        applied = await self.post("/v1/plans/apply", {"toml": PRICES})
        assert applied.status == 200, applied.text
        account = await self.post("/v1/accounts", {"name": "Shop", "billing_email": "bills@shop.example"})
        self.account = account.body["id"]
        key = await self.post("/v1/keys", {"account_id": self.account, "plan": "K1", "site": "shop.example"})
        self.key = key.body["id"]

    async def count(self, day: date, calls: int) -> None:
        """Write counts to the ledger, as a roll-up would."""
        async with self.engine.begin() as connection:
            await put_line(connection, self.key, day, ("SearchItemsFrame", "search"), calls, calls, 0)

    async def post(self, path: str, body: Any) -> Answer:
        """POST under an idempotency key of its own."""
        self._posts += 1
        return await self.api.post(path, body, Idempotency_Key=f"test-{self._posts}")

    async def bill(self) -> str:
        """Close October and issue it; return the invoice's id."""
        self.clock.now = CLOSING
        closed = await self.post("/v1/invoices/close", {"period": "2026-10"})
        assert closed.status == 200, closed.text
        self.clock.now = ISSUING
        issued = await self.post("/v1/invoices/issue", {"period": "2026-10"})
        assert issued.status == 200, issued.text
        [invoice] = [each for each in issued.body["invoices"] if each["account_id"] == self.account]
        return str(invoice["id"])

    async def standing(self) -> str:
        """Return how the key stands at the clock's time."""
        return str((await self.api.get(f"/v1/keys/{self.key}")).body["standing"])
