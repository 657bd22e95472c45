"""What a reckoning hands over, row by row; what PostgreSQL makes of it is tested where months are closed."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import reckoning
from metering.billing.reckoning import CloseReport, Draft, LeftOut, Reckoning
from metering.billing.terms import Terms
from metering.ledger import closing, credit_notes, plan_versions
from metering.ledger.closing import Staged
from metering.ledger.credit_notes import GivenBack
from policies.decision import Contract
from policies.plan_versions import PlanVersion
from policies.trial import TrialTerms
from tests.metering.billing.books import PLANS, STEPS, month, version

CENT = Decimal("0.01")
OCTOBER = month("2026-10")
FIRST, MIDDLE, LAST = OCTOBER.first, date(2026, 10, 11), OCTOBER.last_excluded
TERMS = Terms(Contract(ZoneInfo("Europe/Moscow"), PLANS, STEPS, TrialTerms(months=0)))
CATALOGUE: dict[str, dict[int, PlanVersion]] = {
    "K1": {1: version(unit="0.01"), 2: version(number=2, unit="0.02")},
    "K3": {1: version("K3", unit="0.03", minimum=Decimal(100))},
    "euro": {1: version("euro", unit="1", currency="EUR")},
}
Counts = tuple[int, int, int]


class Desk:
    """Takes what is staged, and knows what was counted between two days."""

    connection = cast(AsyncConnection, object())

    def __init__(self) -> None:
        self.trips: list[Staged] = []
        self.counts: dict[tuple[str, date, date], Counts] = {}
        self.credited: list[GivenBack] = []

    async def stage(self, connection: AsyncConnection, staged: Staged) -> None:
        """Take rows in."""
        assert connection is self.connection
        self.trips.append(staged)

    async def counts_between(
        self, connection: AsyncConnection, spans: list[tuple[str, date, date]]
    ) -> list[Counts]:
        """Say what was counted."""
        assert connection is self.connection
        return [self.counts[span] for span in spans]

    async def given_back(
        self, connection: AsyncConnection, months: list[tuple[str, date]]
    ) -> list[GivenBack]:
        """Say what credit notes gave back."""
        assert connection is self.connection
        return [each for each in self.credited if (each.key_id, each.month) in months]

    def reckoning(self, *, keep: bool = False) -> Reckoning:
        """Begin with a month."""
        return Reckoning(self.connection, OCTOBER, TERMS, CATALOGUE, CloseReport(OCTOBER), keep=keep)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk in the place of PostgreSQL."""
    made = Desk()
    monkeypatch.setattr(closing, "stage", made.stage)
    monkeypatch.setattr(closing, "counts_between", made.counts_between)
    monkeypatch.setattr(credit_notes, "given_back", made.given_back)
    return made


def row(key: str, account: str = "acc_1", **changes: Any) -> dict[str, Any]:
    """A segment of a key: the whole month at the first price, with ten calls."""
    facts = {
        "account_id": account, "key_id": key, "site": f"{key}.example", "label": f"label of {key}",
        "plan": "K1", "first_day": FIRST, "last_excluded": LAST, "version": 1,
        "calls": 10, "taken": 20, "waived": 5, "name": f"Лавка {account}", "currency": "USD",
        "main_domain": f"{account}.example", "billing_email": f"{account}@example.com",
    }  # fmt: skip
    return facts | changes


def late_row(
    key: str, account: str = "acc_1", billed: Counts = (1, 2, 0), first: str = "2026-09-01"
) -> dict[str, Any]:
    """A key of a month before, billed for the days until the tenth and then after it."""
    parts = [[[first, f"{first[:8]}10", 1, *billed]], [[f"{first[:8]}10", f"{first[:8]}20", 1, 5, 5, 0]]]
    billable = billed[1] - billed[2] + 5
    return row(key, account) | {
        "period_first": date.fromisoformat(first), "segments": json.dumps(parts), "amount": billable * CENT,
    }  # fmt: skip


def line(
    key: str, kind: str, quantity: str, price: str | None, amount: str, **changes: Any
) -> tuple[Any, ...]:
    """A staged line without its account and position."""
    facts = {
        "kind": kind, "key_id": key, "site": f"{key}.example", "tier": "all units",
        "quantity": Decimal(quantity), "unit_price": None if price is None else Decimal(price),
        "amount": Decimal(amount), "first": FIRST, "last_excluded": LAST,
        "plan": "K1", "version": 1, "calls": 10, "taken": 20, "waived": 5,
    }  # fmt: skip
    return tuple((facts | changes).values())


async def test_an_account_is_staged_whole(desk: Desk) -> None:
    """An invoice has the sum of its keys' lines, in the order of sites, and how each key was cut."""
    made = desk.reckoning()
    made.add(row("key_1", site=None, version=None, last_excluded=MIDDLE, calls=1, taken=3, waived=1))
    made.add(row("key_1", site=None, version=2, first_day=MIDDLE))
    made.add(row("key_3"))
    made.add(row("key_2"))
    made.add(row("key_2b", site="key_2.example", plan="K3"))
    await made.finish()
    (staged,) = desk.trips
    ((invoice_id, account, currency, total, snapshot),) = staged.invoices
    assert invoice_id.startswith("inv_")
    assert (account, currency, total) == ("acc_1", "USD", Decimal("100.60"))
    free = {"site": None, "tier": "free month", "plan": None, "version": None, "last_excluded": MIDDLE}
    units = {"calls": 1, "taken": 3, "waived": 1}
    site_2 = {"site": "key_2.example", "plan": "K3"}
    assert [each[:2] for each in staged.lines] == [("acc_1", number) for number in range(1, 7)]
    assert [each[2:] for each in staged.lines] == [
        line("key_2", "usage", "15", "0.01", "0.15"),
        line("key_2b", "usage", "15", "0.03", "0.45", **site_2),
        line("key_2b", "minimum", "1", "99.55", "99.55", tier="minimum of 100.00", **site_2),
        line("key_3", "usage", "15", "0.01", "0.15"),
        line("key_1", "trial", "2", "0", "0.00", **free, **units),
        line("key_1", "usage", "15", "0.02", "0.30", site=None, first=MIDDLE, version=2),
    ]
    day = date.isoformat
    assert [(*each[:6], json.loads(each[6]), *each[7:]) for each in staged.keys] == [
        (
            "acc_1", "key_1", FIRST, "K1", FIRST, LAST,
            [[day(FIRST), day(MIDDLE), None, 1, 3, 1], [day(MIDDLE), day(LAST), 2, 10, 20, 5]],
            11, 23, 6, Decimal("0.30"),
        ),
        *(
            (
                "acc_1", key, FIRST, plan, FIRST, LAST, [[day(FIRST), day(LAST), 1, 10, 20, 5]], 10, 20, 5,
                Decimal(amount),
            )
            for key, plan, amount in (
                ("key_3", "K1", "0.15"), ("key_2", "K1", "0.15"), ("key_2b", "K3", "100"),
            )
        ),
    ]  # fmt: skip
    assert "Лавка acc_1" in snapshot
    keys = {
        key: {"plan": plan, "site": site, "label": f"label of {key}"}
        for key, plan, site in (
            ("key_1", "K1", None),
            ("key_3", "K1", "key_3.example"),
            ("key_2", "K1", "key_2.example"),
            ("key_2b", "K3", "key_2.example"),
        )
    }
    prices = {"K1/1": CATALOGUE["K1"][1], "K1/2": CATALOGUE["K1"][2], "K3/1": CATALOGUE["K3"][1]}
    assert json.loads(snapshot) == {
        "customer": {
            "id": "acc_1",
            "name": "Лавка acc_1",
            "main_domain": "acc_1.example",
            "billing_email": "acc_1@example.com",
        },
        "timezone": "Europe/Moscow",
        "prices": {name: plan_versions.facts_of(each) for name, each in prices.items()},
        "keys": keys,
    }


async def test_accounts_are_apart(desk: Desk) -> None:
    """Each account has an invoice of its own, in its currency; the report has the sums of all."""
    made = desk.reckoning()
    made.add(row("key_1"))
    made.add(row("key_2", "acc_2", currency="EUR", plan="euro"))
    made.add(row("key_3", "acc_3"))
    await made.finish()
    (staged,) = desk.trips
    assert [each[1:4] for each in staged.invoices] == [
        ("acc_1", "USD", Decimal("0.15")),
        ("acc_2", "EUR", Decimal("15.00")),
        ("acc_3", "USD", Decimal("0.15")),
    ]
    assert [each[:2] for each in staged.lines] == [("acc_1", 1), ("acc_2", 1), ("acc_3", 1)]
    assert [list(json.loads(each[4])["keys"]) for each in staged.invoices] == [
        ["key_1"],
        ["key_2"],
        ["key_3"],
    ]
    report = made._report
    assert (report.accounts, report.lines, report.late_lines) == (3, 3, 0)
    assert report.totals == {"USD": Decimal("0.30"), "EUR": Decimal("15.00")}
    assert (report.left_out, report.drafts) == ([], [])


async def test_drafts_are_kept_on_request(desk: Desk) -> None:
    """A dry run tells each draft with its lines, and hands nothing over."""
    made = desk.reckoning(keep=True)
    made.add(row("key_2"))
    made.add(row("key_1", site="a.example"))
    await made.finish()
    assert desk.trips == [Staged([], [], [])]
    ((account, currency, total, lines),) = [
        (each.account_id, each.currency, each.total, each.lines) for each in made._report.drafts
    ]
    assert (account, currency, total) == ("acc_1", "USD", Decimal("0.30"))
    assert [each.key_id for each in lines] == ["key_1", "key_2"]
    assert isinstance(made._report.drafts[0], Draft)


async def test_what_cannot_be_rated_is_left_out(desk: Desk) -> None:
    """A key in another currency, or with more waived than taken, is told with the reason; others go on."""
    made = desk.reckoning()
    made.add(row("key_1", plan="euro"))
    made.add(row("key_2", taken=4))
    made.add(row("key_3", taken=5))
    made.add(row("key_4", "acc_2", taken=0))
    await made.finish()
    assert made._report.left_out == [
        LeftOut("key_1", "acc_1", "its price is in EUR, and its account pays in USD"),
        LeftOut("key_2", "acc_1", "the ledger has more units waived than taken"),
        LeftOut("key_4", "acc_2", "the ledger has more units waived than taken"),
    ]
    (staged,) = desk.trips
    assert [each[1] for each in staged.invoices] == ["acc_1"]
    assert [each[1] for each in staged.keys] == ["key_3"]
    assert list(json.loads(staged.invoices[0][4])["keys"]) == ["key_3"]


async def test_lines_are_handed_over_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was staged goes to PostgreSQL once it is enough, each row once."""
    monkeypatch.setattr(reckoning, "STAGED_LINES", 2)
    made = desk.reckoning()
    for number in range(4):
        made.add(row(f"key_{number}", f"acc_{number}"))
        await made.carry()
        assert len(desk.trips) == (number == 2) + (number > 2)
    await made.finish()
    assert [[each[0] for each in trip.lines] for trip in desk.trips] == [
        ["acc_0", "acc_1"],
        ["acc_2", "acc_3"],
    ]


async def test_a_month_without_keys_stages_nothing(desk: Desk) -> None:
    """Nothing is handed over for nobody."""
    made = desk.reckoning()
    await made.add_late([])
    await made.finish()
    assert desk.trips == [Staged([], [], [])]
    assert made._report == CloseReport(OCTOBER)


class TestLateCounts:
    """Counts of months whose invoices are issued."""

    async def test_what_changed_is_a_line_of_the_next_invoice(self, desk: Desk) -> None:
        """Late lines come with the account's own where it has any, and else have an invoice to themselves."""
        for key in ("key_1", "key_2", "key_9"):
            desk.counts[(key, date(2026, 9, 1), date(2026, 9, 10))] = (3, 6, 1)
            desk.counts[(key, date(2026, 9, 10), date(2026, 9, 20))] = (5, 5, 0)
        made = desk.reckoning()
        await made.add_late([late_row("key_2"), late_row("key_1"), late_row("key_9", "acc_9")])
        assert made._report.late_lines == 3
        made.add(row("key_1b", site="key_1c.example"))
        await made.finish()
        (staged,) = desk.trips
        assert [each[1:4] for each in staged.invoices] == [
            ("acc_1", "USD", Decimal("0.21")),
            ("acc_9", "USD", Decimal("0.03")),
        ]
        late = {
            "tier": "counted after the invoice of 2026-09", "first": date(2026, 9, 1),
            "last_excluded": date(2026, 10, 1), "plan": None, "version": None,
            "calls": 2, "taken": 4, "waived": 1,
        }  # fmt: skip
        assert staged.lines == [
            ("acc_1", 1, *line("key_1", "late", "3", None, "0.03", **late)),
            ("acc_1", 2, *line("key_1b", "usage", "15", "0.01", "0.15", site="key_1c.example")),
            ("acc_1", 3, *line("key_2", "late", "3", None, "0.03", **late)),
            ("acc_9", 1, *line("key_9", "late", "3", None, "0.03", **late)),
        ]
        grown = [["2026-09-01", "2026-09-10", 1, 2, 4, 1], ["2026-09-10", "2026-09-20", 1, 0, 0, 0]]
        days = date(2026, 9, 1), "K1", date(2026, 9, 1), date(2026, 9, 20)
        own = FIRST, "K1", FIRST, LAST, [["2026-10-01", "2026-11-01", 1, 10, 20, 5]], 10, 20, 5
        assert [(*each[:6], json.loads(each[6]), *each[7:]) for each in staged.keys] == [
            ("acc_1", "key_2", *days, grown, 2, 4, 1, Decimal("0.03")),
            ("acc_1", "key_1", *days, grown, 2, 4, 1, Decimal("0.03")),
            ("acc_1", "key_1b", *own, Decimal("0.15")),
            ("acc_9", "key_9", *days, grown, 2, 4, 1, Decimal("0.03")),
        ]
        snapshot = json.loads(staged.invoices[1][4])
        assert snapshot["keys"] == {
            "key_9": {"plan": "K1", "site": "key_9.example", "label": "label of key_9"}
        }
        assert snapshot["customer"]["id"] == "acc_9"
        assert set(json.loads(staged.invoices[0][4])["keys"]) == {"key_1", "key_2", "key_1b"}

    async def test_what_came_to_nothing_is_no_line(self, desk: Desk) -> None:
        """Calls that came and were waived change no quantity and no amount; others after them are billed."""
        for key, counts in (("key_1", (9, 9, 7)), ("key_2", (1, 3, 0))):
            desk.counts[(key, date(2026, 8, 1), date(2026, 8, 10))] = counts
            desk.counts[(key, date(2026, 8, 10), date(2026, 8, 20))] = (5, 5, 0)
        made = desk.reckoning()
        await made.add_late([late_row(key, first="2026-08-01") for key in ("key_1", "key_2")])
        await made.finish()
        (staged,) = desk.trips
        assert [each[1] for each in staged.keys] == ["key_2"]
        assert made._report.late_lines == 1
