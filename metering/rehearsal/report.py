"""How a rehearsal is told: what each customer was charged, and how it stood when. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from metering.rehearsal.books import ZERO, Turn
from metering.rehearsal.checks import Check
from metering.rehearsal.fleet import Customer
from policies.period import Period

FAILURES_TOLD = 5


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a customer; `charged` has the month, the invoice's total and what was credited of it."""

    customer: Customer
    charged: list[tuple[date, Decimal, Decimal]]
    paid: Decimal
    reversed: Decimal
    balance: Decimal
    turns: list[Turn]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of a rehearsal; nothing in it depends on chance beyond the seed, or on a clock."""

    span: Period
    timezone: str
    currency: str
    seed: int
    accounts: tuple[Account, ...]
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Say whether every check holds."""
        return not any(check.failures for check in self.checks)

    def lines(self) -> list[str]:
        """Tell it in full, the checks last."""
        told = [
            f"{len(self.accounts):,} customers from {self.span.first:%Y-%m} "
            f"to {self.span.last_excluded:%Y-%m} (excluded), {self.timezone}, seed {self.seed}",
            "",
        ]
        for account in self.accounts:
            told += self._account(account)
        body = "\n".join(told)
        charged = sum((total for account in self.accounts for _, total, _ in account.charged), ZERO)
        credited = sum((credit for account in self.accounts for _, _, credit in account.charged), ZERO)
        paid = sum((account.paid for account in self.accounts), ZERO)
        balance = sum((account.balance for account in self.accounts), ZERO)
        told += [
            f"all: charged {charged:,} - credited {credited:,} - paid {paid:,} "
            f"= balance {balance:,} {self.currency}",
            f"changes of standing: {sum(len(account.turns) for account in self.accounts):,}",
            "",
        ]
        for check in self.checks:
            verdict = "holds" if not check.failures else f"FAILS {len(check.failures):,} times"
            told.append(f"{verdict}: {check.name} ({check.cases:,})")
            told += [f"    {failure}" for failure in check.failures[:FAILURES_TOLD]]
        told.append(f"sha256 of the above customers: {hashlib.sha256(body.encode()).hexdigest()}")
        return told

    def _account(self, account: Account) -> list[str]:
        customer = account.customer
        sold = ", ".join(f"{shop.plan} {shop.site}" for shop in customer.shops)
        charged = sum((total for _, total, _ in account.charged), ZERO)
        credited = sum((credit for _, _, credit in account.charged), ZERO)
        sums = f"charged {charged:,}, credited {credited:,}, paid {account.paid:,}"
        if account.reversed:
            sums += f" (and {account.reversed:,} taken back)"
        told = [f"{customer.name} ({customer.habit}; {sold})"]
        told.append("  " + "  ".join(f"{month:%Y-%m} {total:,}" for month, total, _ in account.charged))
        told.append(f"  {sums}, balance {account.balance:,} {self.currency}")
        if account.turns:
            told.append("  " + ", ".join(f"{to.value} from {self._when(at)}" for at, to in account.turns))
        return told

    def _when(self, at: float) -> str:
        return f"{datetime.fromtimestamp(at, ZoneInfo(self.timezone)):%Y-%m-%d %H:%M:%S}"
