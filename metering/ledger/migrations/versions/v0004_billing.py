"""Add prices, invoices, payments, disputes and credit notes, and keep what was issued from changing."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE plan_versions (
        plan text NOT NULL,
        version integer NOT NULL,
        currency text NOT NULL,
        announced_at timestamptz NOT NULL,
        effective_from date NOT NULL,
        existing_from date,
        price jsonb NOT NULL,
        minimum numeric(18, 2) NOT NULL,
        minimum_proration text NOT NULL
            CONSTRAINT ck_plan_versions_minimum_proration CHECK (minimum_proration IN ('daily', 'none')),
        applied_at timestamptz NOT NULL,
        applied_by text NOT NULL,
        CONSTRAINT pk_plan_versions PRIMARY KEY (plan, version),
        CONSTRAINT uq_plan_versions_plan_effective_from UNIQUE (plan, effective_from)
    )""",
    """
    CREATE TABLE plan_moves (
        key_id text NOT NULL CONSTRAINT fk_plan_moves_key_id REFERENCES keys (id),
        first_day date NOT NULL,
        version integer NOT NULL,
        made_at timestamptz NOT NULL,
        made_by text NOT NULL,
        CONSTRAINT pk_plan_moves PRIMARY KEY (key_id, first_day)
    )""",
    "CREATE TABLE number_series (series text CONSTRAINT pk_number_series PRIMARY KEY, last bigint NOT NULL)",
    """
    CREATE TABLE billing_months (
        period_first date CONSTRAINT pk_billing_months PRIMARY KEY,
        closed_at timestamptz NOT NULL,
        closed_by text NOT NULL,
        issued_at timestamptz
    )""",
    """
    CREATE TABLE invoices (
        id text CONSTRAINT pk_invoices PRIMARY KEY,
        account_id text NOT NULL CONSTRAINT fk_invoices_account_id REFERENCES accounts (id),
        period_first date NOT NULL,
        period_last_excluded date NOT NULL,
        status text NOT NULL CONSTRAINT ck_invoices_status CHECK (status IN ('draft', 'issued', 'void')),
        number bigint CONSTRAINT uq_invoices_number UNIQUE,
        currency text NOT NULL,
        total numeric(18, 2) NOT NULL,
        closed_at timestamptz NOT NULL,
        issued_at timestamptz,
        issued_on date,
        due_on date,
        voided_at timestamptz,
        voided_by text,
        void_reason text,
        snapshot jsonb NOT NULL,
        CONSTRAINT ck_invoices_issued CHECK (
            (number IS NULL) = (issued_on IS NULL) AND (number IS NULL) = (issued_at IS NULL)
            AND (number IS NULL) = (due_on IS NULL) AND (status <> 'issued' OR number IS NOT NULL)
            AND (status <> 'draft' OR number IS NULL)
        ),
        CONSTRAINT ck_invoices_void CHECK ((status = 'void') = (voided_at IS NOT NULL)),
        CONSTRAINT uq_invoices_account_id_period_first UNIQUE (account_id, period_first)
    )""",
    "CREATE INDEX ix_invoices_period_first_status ON invoices (period_first, status)",
    """
    CREATE TABLE invoice_lines (
        invoice_id text NOT NULL CONSTRAINT fk_invoice_lines_invoice_id REFERENCES invoices (id),
        position integer NOT NULL,
        kind text NOT NULL
            CONSTRAINT ck_invoice_lines_kind CHECK (kind IN ('usage', 'flat', 'trial', 'minimum', 'late')),
        key_id text NOT NULL,
        site text,
        tier text NOT NULL,
        quantity numeric NOT NULL,
        unit_price numeric,
        amount numeric(18, 2) NOT NULL,
        first_day date NOT NULL,
        last_excluded date NOT NULL,
        plan text,
        version integer,
        calls bigint NOT NULL,
        taken bigint NOT NULL,
        waived bigint NOT NULL,
        CONSTRAINT pk_invoice_lines PRIMARY KEY (invoice_id, position)
    )""",
    """
    CREATE TABLE invoice_keys (
        invoice_id text NOT NULL CONSTRAINT fk_invoice_keys_invoice_id REFERENCES invoices (id),
        key_id text NOT NULL,
        period_first date NOT NULL,
        plan text NOT NULL,
        first_day date NOT NULL,
        last_excluded date NOT NULL,
        segments jsonb NOT NULL,
        calls bigint NOT NULL,
        taken bigint NOT NULL,
        waived bigint NOT NULL,
        amount numeric(18, 2) NOT NULL,
        CONSTRAINT pk_invoice_keys PRIMARY KEY (invoice_id, key_id, period_first)
    )""",
    "CREATE INDEX ix_invoice_keys_key_id_period_first ON invoice_keys (key_id, period_first)",
    "CREATE INDEX ix_invoice_keys_period_first_invoice_id ON invoice_keys (period_first, invoice_id)",
    """
    CREATE TABLE payments (
        id text CONSTRAINT pk_payments PRIMARY KEY,
        account_id text NOT NULL CONSTRAINT fk_payments_account_id REFERENCES accounts (id),
        invoice_id text CONSTRAINT fk_payments_invoice_id REFERENCES invoices (id),
        amount numeric(18, 2) NOT NULL CONSTRAINT ck_payments_amount CHECK (amount > 0),
        currency text NOT NULL,
        received_at timestamptz NOT NULL,
        reference text,
        idempotency_key text NOT NULL CONSTRAINT uq_payments_idempotency_key UNIQUE,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        reversed_at timestamptz,
        reversed_by text,
        reversal_reason text
    )""",
    "CREATE INDEX ix_payments_account_id_received_at ON payments (account_id, received_at)",
    "CREATE INDEX ix_payments_created_at_id ON payments (created_at, id)",
    """
    CREATE TABLE disputes (
        id text CONSTRAINT pk_disputes PRIMARY KEY,
        account_id text NOT NULL CONSTRAINT fk_disputes_account_id REFERENCES accounts (id),
        invoice_id text NOT NULL,
        position integer NOT NULL,
        amount numeric(18, 2) NOT NULL CONSTRAINT ck_disputes_amount CHECK (amount > 0),
        determined_on date NOT NULL,
        evidence text NOT NULL,
        status text NOT NULL CONSTRAINT ck_disputes_status CHECK (status IN ('open', 'accepted', 'rejected')),
        opened_at timestamptz NOT NULL,
        opened_by text NOT NULL,
        resolved_at timestamptz,
        resolved_by text,
        resolution text,
        CONSTRAINT fk_disputes_invoice_id FOREIGN KEY (invoice_id, position)
            REFERENCES invoice_lines (invoice_id, position),
        CONSTRAINT ck_disputes_resolved CHECK ((status = 'open') = (resolved_at IS NULL))
    )""",
    "CREATE INDEX ix_disputes_account_id ON disputes (account_id)",
    "CREATE INDEX ix_disputes_opened_at_id ON disputes (opened_at, id)",
    "CREATE UNIQUE INDEX uq_disputes_open ON disputes (invoice_id, position) WHERE status = 'open'",
    """
    CREATE TABLE credit_notes (
        id text CONSTRAINT pk_credit_notes PRIMARY KEY,
        number bigint NOT NULL CONSTRAINT uq_credit_notes_number UNIQUE,
        account_id text NOT NULL CONSTRAINT fk_credit_notes_account_id REFERENCES accounts (id),
        invoice_id text NOT NULL CONSTRAINT fk_credit_notes_invoice_id REFERENCES invoices (id),
        dispute_id text CONSTRAINT fk_credit_notes_dispute_id REFERENCES disputes (id)
            CONSTRAINT uq_credit_notes_dispute_id UNIQUE,
        currency text NOT NULL,
        total numeric(18, 2) NOT NULL CONSTRAINT ck_credit_notes_total CHECK (total > 0),
        issued_at timestamptz NOT NULL,
        issued_on date NOT NULL,
        issued_by text NOT NULL,
        reason text NOT NULL
    )""",
    "CREATE INDEX ix_credit_notes_account_id ON credit_notes (account_id)",
    "CREATE INDEX ix_credit_notes_invoice_id ON credit_notes (invoice_id)",
    "CREATE INDEX ix_credit_notes_issued_at_id ON credit_notes (issued_at, id)",
    """
    CREATE TABLE credit_note_lines (
        credit_note_id text NOT NULL
            CONSTRAINT fk_credit_note_lines_credit_note_id REFERENCES credit_notes (id),
        number integer NOT NULL,
        position integer NOT NULL,
        quantity numeric NOT NULL,
        amount numeric(18, 2) NOT NULL,
        explanation text NOT NULL,
        CONSTRAINT pk_credit_note_lines PRIMARY KEY (credit_note_id, number)
    )""",
    # An invoice that was issued may be made void, and is changed in nothing else; nor is one removed.
    """
    CREATE FUNCTION keep_issued_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.status = 'draft' THEN
            RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
        END IF;
        IF TG_OP = 'UPDATE' AND OLD.status = 'issued' AND NEW.status = 'void'
            AND to_jsonb(NEW) - ARRAY['status', 'voided_at', 'voided_by', 'void_reason']
              = to_jsonb(OLD) - ARRAY['status', 'voided_at', 'voided_by', 'void_reason']
        THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'invoice % is %, it never changes', OLD.id, OLD.status
            USING ERRCODE = 'integrity_constraint_violation';
    END $$""",
    """
    CREATE TRIGGER keep_issued BEFORE UPDATE OR DELETE ON invoices
        FOR EACH ROW EXECUTE FUNCTION keep_issued_invoice()""",
    # One look per statement and not per row: a month has hundreds of thousands of lines.
    """
    CREATE FUNCTION keep_issued_parts() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT 1 FROM touched JOIN invoices ON invoices.id = touched.invoice_id
                   WHERE invoices.status <> 'draft')
        THEN
            RAISE EXCEPTION 'what belongs to an issued invoice never changes'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END $$""",
    *(
        f"CREATE TRIGGER keep_issued_{verb.lower()} AFTER {verb} ON {table}"
        f" REFERENCING {rows} TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION keep_issued_parts()"
        for table in ("invoice_lines", "invoice_keys")
        for verb, rows in (("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD"))
    ),
    """
    CREATE FUNCTION never_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$""",
    *(
        f"CREATE TRIGGER never_change BEFORE UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION never_change()"
        for table in ("credit_notes", "credit_note_lines")
    ),
)
TABLES = (
    "credit_note_lines, credit_notes, disputes, payments, invoice_keys, invoice_lines, invoices,"
    " billing_months, number_series, plan_moves, plan_versions"
)


def upgrade() -> None:
    """Make the tables and what guards them."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables with all they hold."""
    op.execute(f"DROP TABLE {TABLES}")
    op.execute("DROP FUNCTION keep_issued_invoice, keep_issued_parts, never_change")
