"""What the control API takes and gives for invoices."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from gateway.control.models import AccountId, Input, Month, Output, PageQuery, Query, Reason
from metering.billing.balance import InvoiceBalance
from metering.billing.preview import PAGE
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice, Status
from metering.rating import LineKind

MAX_ACCOUNTS = 10_000
MAX_PAGE = 1_000  # accounts with all their lines


class Paged(Input):
    """Where a dry run goes on."""

    cursor: Annotated[str, Field(max_length=1_000)] | None = Field(
        None, description="With dry_run: the `next_cursor` of the page before, as it came."
    )
    limit: int = Field(PAGE, ge=1, le=MAX_PAGE, description="Accounts, or invoices, that are told at most.")


class InvoiceForm(StrEnum):
    """How an invoice is written."""

    JSON = "json"
    CSV = "csv"
    HTML = "html"


class InvoicesQuery(PageQuery):
    """Which invoices to list."""

    account: AccountId | None = None
    period: Month | None = Field(None, description="A month, such as 2026-10.")
    status: Status | None = None
    reference: Annotated[str, Field(pattern=r"^[Ii][Nn][Vv]-[0-9]{1,18}$")] | None = Field(
        None, description="The one with this number, such as INV-000001."
    )


class InvoiceQuery(Query):
    """How to write it."""

    format: InvoiceForm = InvoiceForm.JSON


class Closing(Paged):
    """Which month to close."""

    period: Month
    dry_run: bool = Field(False, description="Change nothing, tell every line, compare with what there is.")
    accounts: list[AccountId] | None = Field(None, max_length=MAX_ACCOUNTS, description="Only these.")


class Issuing(Paged):
    """Which month's drafts to issue."""

    period: Month
    dry_run: bool = Field(False, description="Say what would be issued, and issue nothing.")
    hold: list[AccountId] = Field([], max_length=MAX_ACCOUNTS, description="Accounts left as drafts.")
    accounts: list[AccountId] | None = Field(None, max_length=MAX_ACCOUNTS, description="Only these.")
    confirmed: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="The `digest` that a dry run told for the same `hold` and `accounts`: when the drafts "
        "are others by now, none is issued. Without it, whatever the drafts ask for is issued.",
    )


class Voiding(Input):
    """Why an invoice is made void."""

    reason: Reason


class LineOut(Output):
    """A line: what for, how much, at which price, and the counts it came from."""

    position: int | None
    kind: LineKind
    key_id: str
    site: str | None
    tier: str
    quantity: Decimal
    unit_price: Decimal | None
    amount: Decimal
    first_day: date
    last_excluded: date
    plan: str | None
    version: int | None
    calls: int = Field(description="Of its days; lines of the same days come from the same counts.")
    taken: int
    waived: int


class InvoiceOut(Output):
    """An invoice. What is paid follows from payments and credit notes."""

    id: str
    reference: str | None = Field(description="The number as customers see it; null for a draft.")
    number: int | None
    account_id: str
    period: str
    status: Status
    currency: str
    total: Decimal
    closed_at: datetime
    issued_at: datetime | None
    issued_on: date | None
    due_on: date | None
    voided_at: datetime | None
    void_reason: str | None


class InvoiceWhole(InvoiceOut):
    """An invoice with its lines and how it stands."""

    credited: Decimal | None
    paid: Decimal | None
    outstanding: Decimal | None
    disputed: Decimal | None
    credit_notes: list[str]
    snapshot: dict[str, Any] = Field(description="Customer, prices, timezone and keys as they were then.")
    lines: list[LineOut]


class InvoicePage(Output):
    """Invoices by month."""

    items: list[InvoiceOut]
    next_cursor: str | None


class Difference(Output):
    """An account's charge as it would be now, beside what there is."""

    account_id: str
    currency: str
    total: Decimal = Field(description="As it would be reckoned now, late counts of issued months apart.")
    invoice: str | None = Field(description="The id of what there is for this month; null for none.")
    invoice_status: Status | None
    invoice_total: Decimal | None
    difference: Decimal
    lines: list[LineOut]


class LeftOut(Output):
    """A subscription that could not be rated."""

    key_id: str
    account_id: str
    reason: str


ISSUES_AT = "When the drafts of the whole month are issued by themselves, if nobody does before."


class Closed(Output):
    """What closing a month did, or would do: a dry run tells a page, and its sums are of that page."""

    period: str
    dry_run: bool
    accounts: int
    made: int = Field(description="Drafts made; invoices that were issued or made void stay as they are.")
    lines: int
    late_lines: int
    totals: dict[str, Decimal] = Field(description="By currency.")
    left_out: list[LeftOut]
    drafts: list[Difference] = Field(description="Told by a dry run only.")
    next_cursor: str | None
    issues_at: datetime | None = Field(description=ISSUES_AT)


class Issued(Output):
    """What was issued, or would be: a dry run tells a page, and its sums are of that page."""

    period: str
    dry_run: bool
    done: bool = Field(description="Whether no draft of the month is left.")
    count: int
    totals: dict[str, Decimal] = Field(description="By currency.")
    held: list[str] = Field(description="Accounts left as drafts: asked for, or books that do not agree.")
    issues_at: datetime | None = Field(description=ISSUES_AT)
    invoices: list[InvoiceOut] = Field(description="The first `limit` of them, by number; a draft has none.")
    next_cursor: str | None
    digest: str | None = Field(
        description="With the first page of a dry run: of all drafts that would be issued, for `confirmed`."
    )
    in_force: bool = Field(False, description="False while changed standings have yet to reach the gateways.")


class Voided(InvoiceOut):
    """An invoice that was made void."""

    in_force: bool = False


def invoice_fields(invoice: Invoice) -> dict[str, Any]:
    """Return what is shown of an invoice itself."""
    names = InvoiceOut.model_fields.keys() - {"period"}
    return {name: getattr(invoice, name) for name in names} | {"period": f"{invoice.period.first:%Y-%m}"}


def line_out(line: Any, position: int | None = None) -> LineOut:
    """Return a line as it is shown; `position` is None for one that stands on no invoice yet."""
    names = LineOut.model_fields.keys() - {"position", "first_day"}
    return LineOut(position=position, first_day=line.first, **{name: getattr(line, name) for name in names})


def whole(
    invoice: Invoice, lines: list[InvoiceLine], balance: InvoiceBalance | None, credit_notes: list[str]
) -> InvoiceWhole:
    """Return an invoice with all that belongs to it; a draft has no balance."""
    return InvoiceWhole(
        **invoice_fields(invoice),
        credited=balance.credited if balance else None,
        paid=balance.allocated if balance else None,
        outstanding=balance.outstanding if balance else None,
        disputed=balance.disputed if balance else None,
        credit_notes=credit_notes,
        snapshot=invoice.snapshot,
        lines=[line_out(line, line.position) for line in lines],
    )
