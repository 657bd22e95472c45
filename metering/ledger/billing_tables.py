"""The ledger's tables of money: prices, moves, invoices, payments, disputes, credit notes.

Amounts are exact decimals with two places, in the currency of their row. What was issued is kept from
changing by triggers of the database (see the migration), not by the care of those who write queries.
"""

from __future__ import annotations

import sqlalchemy as sa

from metering.ledger.tables import Instant, Json, metadata

__all__ = ["metadata"]

Money = sa.Numeric(18, 2)
Day = sa.Date()

plan_versions = sa.Table(
    "plan_versions",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("announced_at", Instant, nullable=False),
    sa.Column("effective_from", Day, nullable=False),
    sa.Column("existing_from", Day),  # none: who is on an older version keeps it (contract OT-11)
    sa.Column("price", Json, nullable=False),
    sa.Column("minimum", Money, nullable=False),
    sa.Column("minimum_proration", sa.Text, nullable=False),
    sa.Column("applied_at", Instant, nullable=False),
    sa.Column("applied_by", sa.Text, nullable=False),
    sa.CheckConstraint("minimum_proration IN ('daily', 'none')", name="minimum_proration"),
    sa.UniqueConstraint("plan", "effective_from"),
)

# A subscription is pinned to the version in force when it starts; only moves away from it are kept.
plan_moves = sa.Table(
    "plan_moves",
    metadata,
    sa.Column("key_id", sa.Text, sa.ForeignKey("keys.id"), primary_key=True),
    sa.Column("first_day", Day, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("made_at", Instant, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
)

# Days in which a key was out of service: it had expired, and was let go on later. They are not paid for.
service_gaps = sa.Table(
    "service_gaps",
    metadata,
    sa.Column("key_id", sa.Text, sa.ForeignKey("keys.id"), primary_key=True),
    sa.Column("first_day", Day, primary_key=True),
    sa.Column("last_excluded", Day, nullable=False),
    sa.Column("made_at", Instant, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
    sa.CheckConstraint("first_day < last_excluded", name="days"),
)

# The last number that each series gave out. Its row stays locked until what was numbered is committed.
number_series = sa.Table(
    "number_series",
    metadata,
    sa.Column("series", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)

# Months that were closed: the drafts of all accounts were made in one transaction with this row.
billing_months = sa.Table(
    "billing_months",
    metadata,
    sa.Column("period_first", Day, primary_key=True),
    sa.Column("closed_at", Instant, nullable=False),  # the last time
    sa.Column("closed_by", sa.Text, nullable=False),
    sa.Column("issued_at", Instant),  # when no draft of it was left
)

invoices = sa.Table(
    "invoices",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("period_first", Day, nullable=False),
    sa.Column("period_last_excluded", Day, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, unique=True),  # of the series "invoice", without gaps
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("total", Money, nullable=False),
    sa.Column("closed_at", Instant, nullable=False),  # when its lines were reckoned
    sa.Column("issued_at", Instant),
    sa.Column("issued_on", Day),  # of the billing timezone, like every day
    sa.Column("due_on", Day),
    sa.Column("voided_at", Instant),
    sa.Column("voided_by", sa.Text),
    sa.Column("void_reason", sa.Text),
    # What it was made from, as it was then: {"customer": {id, name, main_domain, billing_email}, "timezone",
    # "prices": {"K1/1": {...}}, "keys": {key_id: {"plan", "site", "label"}}}
    sa.Column("snapshot", Json, nullable=False),
    sa.CheckConstraint("status IN ('draft', 'issued', 'void')", name="status"),
    sa.CheckConstraint(
        "(number IS NULL) = (issued_on IS NULL) AND (number IS NULL) = (issued_at IS NULL)"
        " AND (number IS NULL) = (due_on IS NULL) AND (status <> 'issued' OR number IS NOT NULL)"
        " AND (status <> 'draft' OR number IS NULL)",
        name="issued",
    ),
    sa.CheckConstraint("(status = 'void') = (voided_at IS NOT NULL)", name="void"),
    sa.UniqueConstraint("account_id", "period_first"),
    sa.Index(None, "period_first", "status"),
)

invoice_lines = sa.Table(
    "invoice_lines",
    metadata,
    sa.Column("invoice_id", sa.Text, sa.ForeignKey("invoices.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),  # from 1
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("site", sa.Text),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("quantity", sa.Numeric, nullable=False),
    sa.Column("unit_price", sa.Numeric),
    sa.Column("amount", Money, nullable=False),
    sa.Column("first_day", Day, nullable=False),
    sa.Column("last_excluded", Day, nullable=False),
    sa.Column("plan", sa.Text),
    sa.Column("version", sa.Integer),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("taken", sa.BigInteger, nullable=False),
    sa.Column("waived", sa.BigInteger, nullable=False),
    sa.CheckConstraint("kind IN ('usage', 'flat', 'trial', 'minimum', 'late')", name="kind"),
)

# What an invoice billed of a key's month, once per key and month: the counts that its lines came from. Late
# counts bring a row of an earlier month. `segments` is how the month was cut, [[first, last_excluded,
# version or null for the free month, calls, taken, waived], ...]; late rows hold the difference alone.
invoice_keys = sa.Table(
    "invoice_keys",
    metadata,
    sa.Column("invoice_id", sa.Text, sa.ForeignKey("invoices.id"), primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("period_first", Day, primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("first_day", Day, nullable=False),  # of the service in that month
    sa.Column("last_excluded", Day, nullable=False),
    sa.Column("segments", Json, nullable=False),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("taken", sa.BigInteger, nullable=False),
    sa.Column("waived", sa.BigInteger, nullable=False),
    sa.Column("amount", Money, nullable=False),
    sa.Index(None, "key_id", "period_first"),
    sa.Index(None, "period_first", "invoice_id"),
)

# Months of keys whose counts changed after they were rated, and how often: what may be late. Triggers of the
# database fill it, and billing empties it.
late_usage = sa.Table(
    "late_usage",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("period_first", Day, primary_key=True),
    sa.Column("changes", sa.BigInteger, nullable=False, server_default="1"),
)

payments = sa.Table(
    "payments",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("invoice_id", sa.Text, sa.ForeignKey("invoices.id")),  # none: it pays the oldest
    sa.Column("amount", Money, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("reference", sa.Text),
    sa.Column("idempotency_key", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("reversed_at", Instant),
    sa.Column("reversed_by", sa.Text),
    sa.Column("reversal_reason", sa.Text),
    sa.CheckConstraint("amount > 0", name="amount"),
    sa.Index(None, "account_id", "received_at"),
    sa.Index(None, "created_at", "id"),
)

disputes = sa.Table(
    "disputes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("invoice_id", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("amount", Money, nullable=False),  # of the line, what is disputed
    sa.Column("determined_on", Day, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column("opened_by", sa.Text, nullable=False),
    sa.Column("resolved_at", Instant),
    sa.Column("resolved_by", sa.Text),
    sa.Column("resolution", sa.Text),
    sa.ForeignKeyConstraint(
        ["invoice_id", "position"], ["invoice_lines.invoice_id", "invoice_lines.position"]
    ),
    sa.CheckConstraint("status IN ('open', 'accepted', 'rejected')", name="status"),
    sa.CheckConstraint("(status = 'open') = (resolved_at IS NULL)", name="resolved"),
    sa.CheckConstraint("amount > 0", name="amount"),
    sa.Index(None, "account_id"),
    sa.Index(None, "opened_at", "id"),
    sa.Index(
        "uq_disputes_open",
        "invoice_id",
        "position",
        unique=True,
        postgresql_where=sa.text("status = 'open'"),
    ),
)

credit_notes = sa.Table(
    "credit_notes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),  # of the series "credit note"
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("invoice_id", sa.Text, sa.ForeignKey("invoices.id"), nullable=False),
    sa.Column("dispute_id", sa.Text, sa.ForeignKey("disputes.id"), unique=True),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("total", Money, nullable=False),  # what the customer gets back
    sa.Column("issued_at", Instant, nullable=False),
    sa.Column("issued_on", Day, nullable=False),
    sa.Column("issued_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.CheckConstraint("total > 0", name="total"),
    sa.Index(None, "account_id"),
    sa.Index(None, "invoice_id"),
    sa.Index(None, "issued_at", "id"),
)

# A line gives `amount` back of the invoice's line at `position`; a negative one is due in addition, as when a
# recalculated month falls below its minimum.
credit_note_lines = sa.Table(
    "credit_note_lines",
    metadata,
    sa.Column("credit_note_id", sa.Text, sa.ForeignKey("credit_notes.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("quantity", sa.Numeric, nullable=False),
    sa.Column("amount", Money, nullable=False),
    sa.Column("explanation", sa.Text, nullable=False),
)
