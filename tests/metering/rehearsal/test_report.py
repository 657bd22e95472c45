from __future__ import annotations

from datetime import date
from decimal import Decimal

from metering.rehearsal.checks import Check
from metering.rehearsal.fleet import Customer, Habit, Shop
from metering.rehearsal.report import Account, Report
from policies.period import Period
from policies.standing import Standing
from tests.policies.samples import MOSCOW, local

SHOP = Shop("shop00007-1.example", "K1", 0.0, None, None, 100)
CUSTOMER = Customer(7, "customer 00007", 0.0, Habit.REVERSED, False, False, (SHOP,))
ACCOUNT = Account(
    customer=CUSTOMER,
    charged=[(date(2026, 1, 1), Decimal("1100.00"), Decimal("100.00"))],
    paid=Decimal("900.00"),
    reversed=Decimal("1000.00"),
    balance=Decimal("100.00"),
    turns=[(local(MOSCOW, "2026-02-13 00:00:00"), Standing.RESTRICTED)],
)


def report(*checks: Check) -> Report:
    return Report(
        Period(date(2026, 1, 1), date(2026, 2, 1)), "Europe/Moscow", "USD", 7, (ACCOUNT,), tuple(checks)
    )


def test_a_customer_is_told_in_full() -> None:
    """Charges by month, credit, payments, what came back, the balance and each turn to the second."""
    told = report(Check("sums", 3)).lines()
    assert told[2:6] == [
        "customer 00007 (has a payment reversed; K1 shop00007-1.example)",
        "  2026-01 1,100.00",
        "  charged 1,100.00, credited 100.00, paid 900.00 (and 1,000.00 taken back), balance 100.00 USD",
        "  restricted from 2026-02-13 00:00:00",
    ]
    assert told[6] == "all: charged 1,100.00 - credited 100.00 - paid 900.00 = balance 100.00 USD"
    assert told[-2] == "holds: sums (3)"


def test_what_fails_is_named() -> None:
    """A check that fails says how often, and the first cases; the report does not hold."""
    failing = report(Check("sums", 9, tuple(f"case {number}" for number in range(7))))
    assert not failing.holds
    told = failing.lines()
    assert "FAILS 7 times: sums (9)" in told
    assert "    case 4" in told
    assert "    case 5" not in told
    assert report(Check("sums", 9)).holds
