"""The terms that billing depends on, beside prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from policies.decision import Contract
from policies.period import day_of

DUE_DAYS = 7  # contract OT-8


@dataclass(frozen=True, slots=True)
class Terms:
    """The contract and the settings of `[billing]`.

    Invoices are issued on day `issue_day` of the following month at the latest (contract OT-7) and are due
    `due_days` calendar days later (OT-8). A problem can be disputed for `dispute_days` after the day on
    which it was determined (OT-13); until that is resolved its amount counts as unpaid only with
    `disputed_counts_as_unpaid`.
    """

    contract: Contract
    currency: str = "USD"
    issue_day: int = 10
    due_days: int = DUE_DAYS
    dispute_days: int = 30
    disputed_counts_as_unpaid: bool = False

    @property
    def zone(self) -> ZoneInfo:
        """The billing timezone."""
        return self.contract.zone

    def day_of(self, now: datetime) -> date:
        """Return the day of the billing timezone that holds an instant."""
        return day_of(now.timestamp(), self.zone)
