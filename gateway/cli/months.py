"""`tallygate bill close` and `tallygate bill issue`: months, told page by page before anything is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import typer

from gateway.cli import client, values
from gateway.cli.bills import INVOICE_COLUMNS
from gateway.cli.client import LONG_S, Connection
from gateway.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    note,
    working,
    write_one,
    write_rows,
)

CLOSE, ISSUE = "/v1/invoices/close", "/v1/invoices/issue"
PAGE = 500
SHOWN = 1_000  # rows of a table: nobody reads more, and CSV and JSON have all
LEFT_OUT_SHOWN = 20
DIFFERENCE_COLUMNS = (
    "account_id",
    "currency",
    "total",
    "invoice",
    "invoice_status",
    "invoice_total",
    "difference",
)
CLOSED_COLUMNS = ("period", "accounts", "made", "lines", "late_lines", "totals", "left_out")

MonthArgument = Annotated[str, typer.Argument(metavar="MONTH", help="As 2026-10.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--account", help="Only this account; may repeat.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(close)
    app.command()(issue)


@dataclass
class _Sums:
    """What went by, page after page."""

    rows: int = 0
    differing: int = 0
    totals: dict[str, Decimal] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    unrated: int = 0
    digest: str | None = None  # of what is confirmed

    def add(self, page: dict[str, Any]) -> None:
        """Take in a page's sums."""
        for currency, total in page["totals"].items():
            self.totals[currency] = self.totals.get(currency, Decimal(0)) + Decimal(total)

    @property
    def told(self) -> str:
        """The totals in words."""
        return ", ".join(f"{total:,.2f} {currency}" for currency, total in self.totals.items()) or "nothing"


def close(
    context: typer.Context,
    month: MonthArgument,
    account: OnlyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show how it differs from what there is.")
    ] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="With --dry-run: only accounts that differ from what there is.")
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Reckon a month into drafts; doing it again reckons the drafts anew.

    A dry run after issuing shows for each account how its invoice differs from what it would be now.
    """
    connection = client.of(context)
    body = values.given(period=values.month(month, "MONTH"), accounts=account)
    if not dry_run:
        with working(f"Closing {body['period']}"):
            told = connection.call("POST", CLOSE, body, timeout_s=LONG_S)
        write_one(told, CLOSED_COLUMNS, form)
        _tell_when(told)
        return
    sums = _Sums()
    rows = _compared(connection, body, sums, changed=changed)
    write_rows(_shown(rows, form), DIFFERENCE_COLUMNS, form, numbers=("total", "invoice_total", "difference"))
    for _ in rows:
        pass  # the sums are of all accounts
    note(
        f"Nothing was changed. {sums.differing:,} of {sums.rows:,} accounts differ from what there is; "
        f"all would be charged {sums.told}."
    )
    _tell_cut(sums.differing if changed else sums.rows, form)
    for each in sums.left_out:
        note(f"{each['key_id']} cannot be rated: {each['reason']}")
    if sums.unrated > len(sums.left_out):
        note(f"... and {sums.unrated - len(sums.left_out):,} more keys that cannot be rated.")


def issue(
    context: typer.Context,
    month: MonthArgument,
    account: OnlyOption = None,
    hold: Annotated[list[str] | None, typer.Option(help="Leave this account's draft; may repeat.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Issue a closed month's drafts under numbers and tell the customers; again, it issues nothing."""
    connection = client.of(context)
    body = values.given(period=values.month(month, "MONTH"), accounts=account, hold=hold)
    sums = _Sums()
    for _ in _planned(connection, body, sums):
        pass
    if not sums.rows:
        note(
            f"There is no draft of {body['period']} to issue; "
            f"`tallygate bill close {body['period']}` makes them."
        )
        write_rows([], INVOICE_COLUMNS, form, numbers=("total",))
        return
    many = "1 invoice" if sums.rows == 1 else f"{sums.rows:,} invoices"
    what = f"Issue {many} of {body['period']}: {sums.told}. An issued invoice never changes."
    if not confirmed(what, yes=yes, dry_run=dry_run):
        rows = _planned(connection, body, _Sums())
        write_rows(_shown(rows, form), INVOICE_COLUMNS, form, numbers=("total",))
        _tell_cut(sums.rows, form)
        return
    with working(f"Issuing {body['period']}"):
        # The gateway reckons once more: what asks for something else by then is asked about anew.
        asked = {**body, "confirmed": sums.digest, "limit": SHOWN}
        done = connection.call("POST", ISSUE, asked, timeout_s=LONG_S)
    write_rows(done["invoices"], INVOICE_COLUMNS, form, numbers=("total",))
    if done["count"] > len(done["invoices"]):
        note(
            f"The first {len(done['invoices']):,} of {done['count']:,} are shown; "
            f"`tallygate bill list --period {body['period']}` lists all."
        )
    if done["held"]:
        note(f"Left as drafts: {', '.join(done['held'])}. `tallygate reconcile` says what does not agree.")
        _tell_when(done)


def _compared(
    connection: Connection, body: dict[str, Any], sums: _Sums, *, changed: bool
) -> Iterator[dict[str, Any]]:
    """Yield each account's charge beside what there is, and add it up."""
    for page in _pages(connection, CLOSE, body):
        sums.add(page)
        sums.unrated += len(page["left_out"])
        sums.left_out += page["left_out"][: LEFT_OUT_SHOWN - len(sums.left_out)]
        for each in page["drafts"]:
            differs = Decimal(each["difference"]) != 0
            sums.rows += 1
            sums.differing += differs
            if differs or not changed:
                yield each


def _planned(connection: Connection, body: dict[str, Any], sums: _Sums) -> Iterator[dict[str, Any]]:
    """Yield the drafts that would be issued, and add them up."""
    for page in _pages(connection, ISSUE, body):
        sums.add(page)
        sums.digest = sums.digest or page["digest"]
        sums.rows += len(page["invoices"])
        yield from page["invoices"]


def _pages(connection: Connection, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    asked = {**body, "dry_run": True, "limit": PAGE}
    while True:
        page: dict[str, Any] = connection.call("POST", path, asked, timeout_s=LONG_S)
        yield page
        if page["next_cursor"] is None:
            return
        asked["cursor"] = page["next_cursor"]


def _shown(rows: Iterator[dict[str, Any]], form: Format) -> Iterator[dict[str, Any]]:
    """Yield what is written: all rows, or as many as a table shows."""
    for number, row in enumerate(rows, 1):
        yield row
        if form is Format.TABLE and number == SHOWN:
            return


def _tell_when(told: dict[str, Any]) -> None:
    if told["issues_at"] is not None:
        at = datetime.fromisoformat(told["issues_at"])
        note(f"Drafts that nobody issues before are issued by themselves at {at:%Y-%m-%d %H:%M %Z}.")


def _tell_cut(rows: int, form: Format) -> None:
    if form is Format.TABLE and rows > SHOWN:
        note(f"The first {SHOWN:,} of {rows:,} are shown; --format csv writes all.")
