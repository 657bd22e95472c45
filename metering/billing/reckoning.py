"""Reckoning a month: rows that come in the order of accounts are rated, and staged account by account."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import cut
from metering.billing.terms import Terms
from metering.ledger import closing, credit_notes, plan_versions
from metering.ledger.closing import Staged
from metering.ledger.credit_notes import GivenBack
from metering.ledger.rows import new_id
from metering.rating import Counts, Line, Segment, late, rate, total_of
from policies.period import Period, month_of
from policies.plan_versions import PlanVersion

ZERO = Decimal("0.00")
STAGED_LINES = 20_000  # that go to PostgreSQL at a time

Versions = dict[str, dict[int, PlanVersion]]  # by plan and number


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A subscription that could not be rated, and why."""

    key_id: str
    account_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What an account is to be charged."""

    account_id: str
    currency: str
    total: Decimal
    lines: tuple[Line, ...]


@dataclass(slots=True)
class CloseReport:
    """What closing a month did; `drafts` are told when it was a dry run.

    Fewer drafts were `made` than accounts reckoned where invoices were issued or made void before.
    """

    period: Period
    accounts: int = 0
    made: int = 0
    lines: int = 0
    late_lines: int = 0
    totals: dict[str, Decimal] = field(default_factory=dict)  # by currency
    left_out: list[LeftOut] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)


@dataclass(slots=True)
class _Account:
    """An account whose rows are being gathered."""

    id: str
    currency: str
    customer: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, PlanVersion] = field(default_factory=dict)
    parts: list[tuple[Any, ...]] = field(default_factory=list)


class Reckoning:
    """Rates rows that come in the order of accounts, and stages each account once it is whole."""

    def __init__(
        self,
        connection: AsyncConnection,
        period: Period,
        terms: Terms,
        catalogue: Versions,
        report: CloseReport,
        *,
        keep: bool,
    ) -> None:
        self._connection = connection
        self._period = period
        self._timezone = terms.zone.key
        self._catalogue = catalogue
        self._report = report
        self._keep = keep
        self._facts: dict[str, dict[str, Any]] = {}
        self._late: dict[str, _Account] = {}
        self._account: _Account | None = None
        self._key: list[Any] = []
        self._staged = Staged([], [], [])

    async def add_late(self, rows: list[Any]) -> None:
        """Reckon what changed in months whose invoices are issued."""
        billed = [
            cut.read(
                [each for part in json.loads(row["segments"]) for each in part],
                self._catalogue.get(row["plan"], {}),
            )
            for row in rows
        ]
        spans = [
            (row["key_id"], segment.first, segment.last_excluded)
            for row, cuts in zip(rows, billed, strict=True)
            for segment, _ in cuts
        ]
        found = iter(await closing.counts_between(self._connection, spans))
        given_back: dict[tuple[str, date], list[GivenBack]] = {}
        months = [(row["key_id"], row["period_first"]) for row in rows]
        for each in await credit_notes.given_back(self._connection, months):
            given_back.setdefault((each.key_id, each.month), []).append(each)
        for row, before, month in zip(rows, billed, months, strict=True):
            counted = [(segment, Counts(*next(found))) for segment, _ in before]
            self._add_late_key(row, before, counted, given_back.get(month, []))

    def _add_late_key(
        self,
        row: Any,
        before: list[cut.Counted],
        counted: list[cut.Counted],
        given_back: Sequence[GivenBack],
    ) -> None:
        key_id, site, month = row["key_id"], row["site"], month_of(row["period_first"])
        then, now = rate(key_id, site, month, before), rate(key_id, site, month, counted)
        # What was billed is what the invoices say: drafts of several months, reckoned again in another order,
        # may have told parts whose prices depend on what stood before them.
        billed = row["amount"]
        if given_back:
            # Units that a credit note gave back are not to be paid: neither by these counts nor before.
            charged = counted
            for each in given_back:
                charged = cut.fewer(charged, each.first, each.units)
                billed -= each.amount
            billed += total_of(now) - total_of(rate(key_id, site, month, charged))
        line = late(key_id, site, month, then, now, billed=billed)
        if line is None:
            return  # calls that cost nothing, or came and were waived
        account = self._late.get(row["account_id"])
        if account is None:
            account = self._late[row["account_id"]] = _account_of(row)
        account.lines.append(line)
        account.keys[key_id] = {"plan": row["plan"], "site": site, "label": row["label"]}
        grown = cut.less(counted, before)
        account.parts.append(_part(account.id, key_id, month.first, row["plan"], grown, line.amount))
        self._report.late_lines += 1

    def add(self, row: Any) -> None:
        """Take the next segment with its counts."""
        if self._key and row["key_id"] != self._key[0]["key_id"]:
            self._rate_key()
        if self._account is None or row["account_id"] != self._account.id:
            self._end_account()
            self._account = self._late.pop(row["account_id"], None) or _account_of(row)
        self._key.append(row)

    async def carry(self) -> None:
        """Hand what was reckoned to PostgreSQL, when it is worth the trip."""
        if len(self._staged.lines) >= STAGED_LINES:
            await self._flush()

    async def finish(self) -> None:
        """Reckon the last account, and those that have nothing but late counts."""
        if self._key:
            self._rate_key()
        self._end_account()
        for account in self._late.values():
            self._stage(account)
        await self._flush()

    async def _flush(self) -> None:
        await closing.stage(self._connection, self._staged)
        self._staged = Staged([], [], [])

    def _rate_key(self) -> None:
        rows, self._key = self._key, []
        account, first = self._account, rows[0]
        assert account is not None  # made with the key's first row
        key_id, plan = first["key_id"], first["plan"]
        versions = self._catalogue.get(plan, {})
        counted = [
            (
                Segment(
                    row["first_day"],
                    row["last_excluded"],
                    None if row["version"] is None else versions[row["version"]],
                ),
                Counts(row["calls"], row["taken"], row["waived"]),
            )
            for row in rows
        ]
        applied = [segment.version for segment, _ in counted if segment.version is not None]
        if reason := _refusal(account, counted, applied):
            self._report.left_out.append(LeftOut(key_id, account.id, reason))
            return
        lines = rate(key_id, first["site"], self._period, counted)
        account.lines += lines
        account.keys[key_id] = {"plan": plan, "site": first["site"], "label": first["label"]}
        account.versions.update({f"{plan}/{version.version}": version for version in applied})
        amount = total_of(lines)
        account.parts.append(_part(account.id, key_id, self._period.first, plan, counted, amount))

    def _end_account(self) -> None:
        if self._account is not None:
            self._stage(self._account)
        self._account = None

    def _stage(self, account: _Account) -> None:
        if not account.parts:
            return
        lines = sorted(account.lines, key=lambda line: (line.site is None, line.site or "", line.key_id))
        total = total_of(lines)
        report = self._report
        report.accounts += 1
        report.lines += len(lines)
        report.totals[account.currency] = report.totals.get(account.currency, ZERO) + total
        if self._keep:
            report.drafts.append(Draft(account.id, account.currency, total, tuple(lines)))
            return
        snapshot = {
            "customer": account.customer,
            "timezone": self._timezone,
            "prices": {name: self._facts_of(name, each) for name, each in account.versions.items()},
            "keys": account.keys,
        }
        self._staged.invoices.append(
            (new_id("inv"), account.id, account.currency, total, json.dumps(snapshot, ensure_ascii=False))
        )
        self._staged.keys.extend(account.parts)
        self._staged.lines.extend(
            (
                account.id,
                position,
                line.kind.value,
                line.key_id,
                line.site,
                line.tier,
                line.quantity,
                line.unit_price,
                line.amount,
                line.first,
                line.last_excluded,
                line.plan,
                line.version,
                line.calls,
                line.taken,
                line.waived,
            )
            for position, line in enumerate(lines, 1)
        )

    def _facts_of(self, name: str, version: PlanVersion) -> dict[str, Any]:
        if name not in self._facts:
            self._facts[name] = plan_versions.facts_of(version)
        return self._facts[name]


def _account_of(row: Any) -> _Account:
    customer = {
        "id": row["account_id"],
        "name": row["name"],
        "main_domain": row["main_domain"],
        "billing_email": row["billing_email"],
    }
    return _Account(row["account_id"], row["currency"], customer)


def _part(
    account_id: str, key_id: str, month: date, plan: str, counted: list[cut.Counted], amount: Decimal
) -> tuple[Any, ...]:
    """Return a row of `staged_keys`."""
    total = sum((counts for _, counts in counted), Counts())
    return (
        account_id,
        key_id,
        month,
        plan,
        counted[0][0].first,
        counted[-1][0].last_excluded,
        json.dumps(cut.write(counted)),
        total.calls,
        total.taken,
        total.waived,
        amount,
    )


def _refusal(account: _Account, counted: list[cut.Counted], versions: list[PlanVersion]) -> str | None:
    """Return why a key cannot be rated."""
    for version in versions:
        if version.currency != account.currency:
            return f"its price is in {version.currency}, and its account pays in {account.currency}"
    if any(counts.billable < 0 for _, counts in counted):
        return "the ledger has more units waived than taken"
    return None
