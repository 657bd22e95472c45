"""Bill, pay, reverse, dispute, credit and wait in any order: who owes what is what a plain model says.

The model keeps whole cents in dictionaries and adds them up anew whenever it is asked. The real thing closes
and issues months in a real PostgreSQL; both are compared after every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from metering.billing import disputes, standing
from metering.ledger import make_engine, tables
from metering.ledger.keys import record_of
from metering.ledger.payments import Payment
from policies.decision import conditions
from policies.period import add_months
from policies.standing import Standing
from tests.metering.billing.books import BY, MOSCOW, Books, version

Result = TypeVar("Result")
DAY = timedelta(days=1)
ACCOUNTS = (0, 1)


@dataclass
class Bill:
    """An issued invoice of one line, in cents."""

    id: str
    account: int
    number: int
    issued_on: date
    total: int
    credited: int = 0
    disputed: int = 0  # of the open dispute
    dispute_id: str = ""


@dataclass
class Money:
    """A payment, in cents."""

    payment: Payment
    account: int
    cents: int
    bill: Bill | None
    reversed: bool = False


@dataclass
class Model:
    """What was issued and paid."""

    bills: list[Bill] = field(default_factory=list)
    money: list[Money] = field(default_factory=list)

    def owing(self, account: int) -> list[tuple[Bill, int]]:
        """Return an account's invoices, the oldest first, with what is unpaid of each.

        A payment goes to the invoice it names; what is left of all payments goes to the oldest unpaid one,
        and to what is under dispute at last.
        """
        bills = sorted((each for each in self.bills if each.account == account), key=lambda each: each.number)
        due = {each.id: each.total - each.credited for each in bills}
        pool = 0
        for each in self.money:
            if each.account == account and not each.reversed:
                named = min(each.cents, due[each.bill.id]) if each.bill is not None else 0
                if each.bill is not None:
                    due[each.bill.id] -= named
                pool += each.cents - named
        for spares in (True, False):
            for bill in bills:
                part = max(0, min(pool, due[bill.id] - (bill.disputed if spares else 0)))
                due[bill.id] -= part
                pool -= part
        return [(bill, due[bill.id]) for bill in bills]

    def total(self, account: int) -> int:
        """Return what an account owes in all; negative for credit."""
        owed = sum(each.total - each.credited for each in self.bills if each.account == account)
        return owed - sum(each.cents for each in self.money if each.account == account and not each.reversed)

    def oldest_unpaid(self, account: int) -> date | None:
        """Return the day of the oldest invoice of which more is unpaid than is under dispute."""
        days = [bill.issued_on for bill, unpaid in self.owing(account) if unpaid > bill.disputed]
        return min(days, default=None)


def standing_on(oldest: date | None, day: date) -> Standing:
    """Seven and 21 days after the day of issue are the customer's; the next one is not (OT-8, OT-10)."""
    late = (day - oldest).days if oldest is not None else 0
    return Standing.BANNED if late > 21 else Standing.RESTRICTED if late > 7 else Standing.ACTIVE


cents = st.integers(1, 900)


class Billing(RuleBasedStateMachine):
    """Two accounts with a key each at one cent a unit, and time that goes on."""

    runner: asyncio.Runner
    books: Books

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.month = date(2026, 1, 1)  # the one that is in use, and not yet closed
        self.now = datetime(2026, 1, 20, 12, tzinfo=MOSCOW)
        self.used: dict[int, int] = dict.fromkeys(ACCOUNTS, 0)
        self.accounts: list[str] = []
        self.keys: list[str] = []

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something on the loop of all examples."""
        return self.runner.run(work)

    @property
    def wall(self) -> str:
        """Now, as a clock on the wall of the billing timezone shows it."""
        return f"{self.now:%Y-%m-%d %H:%M:%S}"

    def billed(self, **wanted: Any) -> list[Bill]:
        """Return the invoices that something can be disputed of, or whose dispute is open."""
        return [each for each in self.model.bills if bool(each.dispute_id) is wanted["open"]]

    @initialize()
    def begin(self) -> None:
        """Two customers who have used nothing."""

        async def empty() -> None:
            names = ", ".join(table.name for table in tables.metadata.sorted_tables)
            async with self.books.engine.begin() as connection:
                await connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
                await connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
            await self.books.announce(version())
            for _ in ACCOUNTS:
                self.accounts.append(await self.books.account())
                self.keys.append(await self.books.key(self.accounts[-1], "2026-01-01"))

        self.run(empty())

    @rule(account=st.sampled_from(ACCOUNTS), units=st.integers(1, 600))
    def use(self, account: int, units: int) -> None:
        """The ledger hears of units of the month."""
        self.used[account] += units
        self.run(self.books.use(self.keys[account], f"{self.month:%Y-%m}-05", self.used[account]))

    @rule(days=st.integers(0, 9))
    def bill(self, days: int) -> None:
        """The month ends, is closed and issued some days into the next one, and all of it once more."""
        first = add_months(self.month, 1)
        issued_at = datetime(first.year, first.month, first.day, 9, tzinfo=MOSCOW) + days * DAY
        self.now = max(self.now, issued_at)
        text = f"{self.month:%Y-%m}"
        found = self.run(self.books.bill(text, self.wall))
        assert self.run(self.books.bill(text, self.wall)) == []
        assert {each.account_id for each in found} == set(self.accounts)
        for each in found:
            account = self.accounts.index(each.account_id)
            assert each.total == Decimal(self.used[account]) / 100
            assert each.number is not None
            self.model.bills.append(Bill(each.id, account, each.number, self.now.date(), self.used[account]))
        self.month, self.used = first, dict.fromkeys(ACCOUNTS, 0)

    @rule(account=st.sampled_from(ACCOUNTS), amount=cents, pick=st.none() | st.integers(0, 9))
    def pay(self, account: int, amount: int, pick: int | None) -> None:
        """Money comes in, for all or for an invoice of the account's."""
        own = [each for each in self.model.bills if each.account == account]
        bill = own[pick % len(own)] if own and pick is not None else None
        named = {"invoice_id": bill.id} if bill is not None else {}
        text = f"{amount // 100}.{amount % 100:02}"
        paid = self.run(self.books.pay(self.accounts[account], text, self.wall, **named))
        self.model.money.append(Money(paid, account, amount, bill))
        self.now += timedelta(seconds=1)

    @precondition(lambda self: self.model.money)
    @rule(pick=st.integers(0, 99))
    def reverse(self, pick: int) -> None:
        """The bank takes a payment back, perhaps one that it took back before."""
        money = self.model.money[pick % len(self.model.money)]
        self.run(self.books.reverse(money.payment, self.wall))
        money.reversed = True

    @precondition(lambda self: any(each.total > each.credited for each in self.billed(open=False)))
    @rule(pick=st.integers(0, 99), share=st.integers(1, 100))
    def dispute(self, pick: int, share: int) -> None:
        """A customer objects to a part of an invoice, or to all that is left of it."""
        possible = [each for each in self.billed(open=False) if each.total > each.credited]
        bill = possible[pick % len(possible)]
        bill.disputed = max(1, (bill.total - bill.credited) * share // 100)

        async def open_() -> str:
            async with self.books.engine.begin() as connection:
                opened = await disputes.open_dispute(
                    connection,
                    bill.id,
                    1,
                    evidence="fewer calls",
                    determined_on=self.now.date(),
                    amount=Decimal(bill.disputed) / 100,
                    terms=self.books.terms,
                    now=self.now.astimezone(UTC),
                    by=BY,
                )
                return opened.id

        bill.dispute_id = self.run(open_())

    @precondition(lambda self: self.billed(open=True))
    @rule(pick=st.integers(0, 99), accepted=st.booleans())
    def resolve(self, pick: int, accepted: bool) -> None:
        """A dispute is rejected, or all that is disputed is given back."""
        possible = self.billed(open=True)
        bill = possible[pick % len(possible)]
        right = bill.total - bill.credited - bill.disputed

        async def resolve() -> None:
            async with self.books.engine.begin() as connection:
                await disputes.resolve(
                    connection,
                    bill.dispute_id,
                    accepted=accepted,
                    resolution="looked at",
                    amount=Decimal(right) / 100 if accepted else None,
                    terms=self.books.terms,
                    now=self.now.astimezone(UTC),
                    by=BY,
                )

        self.run(resolve())
        bill.credited += bill.disputed if accepted else 0
        bill.disputed, bill.dispute_id = 0, ""

    @rule(days=st.integers(0, 12), seconds=st.integers(1, 86_400))
    def wait(self, days: int, seconds: int) -> None:
        """Time goes on, and nothing is done."""
        self.now += days * DAY + timedelta(seconds=seconds)

    @invariant()
    def is_as_the_model_says(self) -> None:
        """Numbers have no gaps; balances, unpaid days and standing are the model's, to the second."""

        async def compare() -> None:
            async with self.books.engine.connect() as connection:
                found = await standing.balances(connection, self.accounts, disputed_counts=False)
            numbers = [each.number for balance in found.values() for each in balance.invoices]
            assert sorted(numbers) == list(range(1, len(self.model.bills) + 1))
            for account in ACCOUNTS if self.accounts else ():
                balance = found[self.accounts[account]]
                owing = self.model.owing(account)
                assert [each.outstanding for each in balance.invoices] == [
                    Decimal(unpaid) / 100 for _, unpaid in owing
                ]
                assert [each.total for each in balance.invoices] == [
                    Decimal(bill.total) / 100 for bill, _ in owing
                ]
                assert balance.total == Decimal(self.model.total(account)) / 100
                oldest = self.model.oldest_unpaid(account)
                key = await self.books.record(self.keys[account])
                assert key.oldest_unpaid_issued_on == oldest
                record, contract = record_of(key), self.books.terms.contract
                begins = self.now.replace(hour=0, minute=0, second=0)
                for ahead in (0, 1, 7, 8, 9, 21, 22, 23):
                    for moment in (begins + ahead * DAY - timedelta(seconds=1), begins + ahead * DAY):
                        held = conditions(record, contract, moment.timestamp())
                        assert held.standing is standing_on(oldest, moment.date()), (oldest, moment)

        self.run(compare())


@pytest.mark.deeper
def test_standing_and_balances_are_those_of_the_model(database_url: str) -> None:
    """Whatever is billed, paid and disputed in whatever order, each key stands as its invoices say."""

    async def open_books() -> None:
        Billing.books = Books(make_engine(database_url))

    # Each step takes as long as a month's bill does: many more would take an hour.
    examples = min(settings().max_examples // 5, 60)
    with asyncio.Runner() as runner:
        Billing.runner = runner
        runner.run(open_books())
        try:
            run_state_machine_as_test(Billing, settings=settings(max_examples=examples))
        finally:
            runner.run(Billing.books.engine.dispose())
