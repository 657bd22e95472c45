"""Accounts, prices and days that tests of billing share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.billing import payments
from metering.billing.close import CloseReport, close
from metering.billing.issue import IssueReport, issue
from metering.billing.payments import NewPayment
from metering.billing.terms import Terms
from metering.ledger import accounts, invoice_lines, invoices, keys, plan_versions
from metering.ledger.audit import Author
from metering.ledger.credentials import NewCredential
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice
from metering.ledger.payments import Payment
from policies.decision import Contract
from policies.methods import OFFICIAL_SEARCH
from policies.period import Period, midnight, month_of
from policies.plan_versions import PlanVersion, Proration
from policies.plans import Plan
from policies.pricing import Model, Price, Tier
from policies.standing import Standing, Step
from policies.trial import TrialTerms
from tests.metering.ledger_lines import put_line

MOSCOW = ZoneInfo("Europe/Moscow")
BY = Author("tok_0000000000000001", "req_1")
STEPS = (
    Step(7, Standing.RESTRICTED, frozenset({"search"}), frozenset({OFFICIAL_SEARCH})),
    Step(21, Standing.BANNED, frozenset({"*"})),
)
PLANS = {
    "K1": Plan("K1", 100_000),
    "K3": Plan("K3", 10_000),
    "sandbox": Plan("sandbox", 5_000, sandbox=True),
}


def version(plan: str = "K1", number: int = 1, **changes: Any) -> PlanVersion:
    """A price of one cent a unit without a minimum, with changes."""
    unit = changes.pop("unit", "0.01")
    facts: dict[str, Any] = {
        "plan": plan,
        "version": number,
        "currency": "USD",
        "announced_at": datetime(2025, 1, 1, tzinfo=UTC),
        "effective_from": date(2025, 1, 1),
        "price": Price(Model.PER_UNIT, (Tier(None, Decimal(unit)),)),
        "minimum": Decimal(0),
        "minimum_proration": Proration.DAILY,
    }
    return PlanVersion(**facts | changes)


def month(text: str) -> Period:
    """The calendar month that is written so."""
    return month_of(date.fromisoformat(f"{text}-01"))


@dataclass
class Books:
    """A ledger whose billing is looked at, in one timezone."""

    engine: AsyncEngine
    terms: Terms = field(default_factory=lambda: Terms(Contract(MOSCOW, PLANS, STEPS, TrialTerms(months=0))))
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def with_terms(self, *, contract: Mapping[str, Any] | None = None, **changes: Any) -> Books:
        """The same ledger under other terms."""
        terms = replace(self.terms, contract=replace(self.terms.contract, **(contract or {})), **changes)
        return Books(self.engine, terms, self.numbers)

    def at(self, text: str) -> datetime:
        """An instant on a wall of the billing timezone, such as `2026-10-05 12:00:00` or only its day."""
        return datetime.fromisoformat(text).replace(tzinfo=self.terms.zone).astimezone(UTC)

    async def announce(self, *versions: PlanVersion) -> None:
        """Put prices into the catalogue."""
        async with self.engine.begin() as connection:
            await plan_versions.add(connection, versions, now=self.at("2025-01-01"), by=BY)

    async def account(self, **changes: Any) -> str:
        """A customer."""
        facts = {"name": f"customer {next(self.numbers)}", "currency": "USD", "now": self.at("2025-01-01")}
        async with self.engine.begin() as connection:
            return (await accounts.create(connection, by=BY, **facts | changes)).id

    async def key(self, account_id: str, made: str = "2026-01-01", plan: str = "K1", **changes: Any) -> str:
        """A key that was made at some instant of the billing timezone, bought then unless it is said."""
        number = next(self.numbers)
        credential = NewCredential(f"digest {number}", "p1", "wxyz")
        at = self.at(made)
        facts = {"site": f"site{number}.example", "purchased_at": None if plan == "sandbox" else at} | changes
        async with self.engine.begin() as connection:
            new = keys.NewKey(account_id, plan, credential, **facts)
            return (await keys.create(connection, new, now=at, by=BY)).id

    async def use(
        self, key_id: str, day: str, units: int, waived: int = 0, method: str = "SearchItemsFrame"
    ) -> None:
        """Set what the ledger has of a key's day."""
        async with self.engine.begin() as connection:
            line = (method, "search")
            await put_line(connection, key_id, date.fromisoformat(day), line, units, units, waived)

    async def close(self, text: str, on: str | None = None, **options: Any) -> CloseReport:
        """Close a month, on the first second after it unless it is said."""
        period = month(text)
        return await close(
            self.engine, period, terms=self.terms, now=self._after(period, on), by=BY, **options
        )

    async def issue(self, text: str, on: str | None = None, **options: Any) -> IssueReport:
        """Issue a month's drafts."""
        period = month(text)
        return await issue(
            self.engine, period, terms=self.terms, now=self._after(period, on), by=BY, **options
        )

    async def bill(self, text: str, on: str | None = None) -> list[Invoice]:
        """Close a month and issue it; returns its invoices by number."""
        await self.close(text, on)
        issued = (await self.issue(text, on)).issued
        async with self.engine.connect() as connection:
            return [await invoices.get(connection, each.id) for each in issued]

    async def pay(self, account_id: str, amount: str, on: str, **changes: Any) -> Payment:
        """Note a payment."""
        at = self.at(on)
        facts = {"idempotency_key": f"payment {next(self.numbers)}"} | changes
        async with self.engine.begin() as connection:
            new = NewPayment(account_id, Decimal(amount), at, **facts)
            return (await payments.receive(connection, new, terms=self.terms, now=at, by=BY))[0]

    async def reverse(self, payment: Payment, on: str) -> None:
        """Take a payment back."""
        async with self.engine.begin() as connection:
            await payments.reverse(
                connection, payment.id, reason="returned", terms=self.terms, now=self.at(on), by=BY
            )

    async def invoices(self, account_id: str | None = None) -> list[Invoice]:
        """All invoices, by month."""
        async with self.engine.connect() as connection:
            return list((await invoices.listed(connection, account_id=account_id)).items)

    async def lines(self, invoice: Invoice) -> list[InvoiceLine]:
        """An invoice's lines."""
        async with self.engine.connect() as connection:
            return await invoice_lines.of_invoice(connection, invoice.id)

    async def lines_of_key(self, key_id: str) -> list[InvoiceLine]:
        """All lines of a key on all invoices, by month."""
        return [
            line
            for invoice in await self.invoices()
            for line in await self.lines(invoice)
            if line.key_id == key_id
        ]

    async def record(self, key_id: str) -> keys.Key:
        """A key as it stands."""
        async with self.engine.connect() as connection:
            return await keys.get(connection, key_id)

    def _after(self, period: Period, on: str | None) -> datetime:
        if on is not None:
            return self.at(on)
        return datetime.fromtimestamp(midnight(period.last_excluded, self.terms.zone), UTC)


def second_before(moment: datetime) -> datetime:
    """The second before."""
    return moment - timedelta(seconds=1)
