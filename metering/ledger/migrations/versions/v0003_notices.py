"""Add notices, what became of each, who hears of them, and where the bills of an account are sent."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE notices (
    id text CONSTRAINT pk_notices PRIMARY KEY,
    event text NOT NULL,
    event_key text NOT NULL CONSTRAINT uq_notices_event_key UNIQUE,
    account_id text CONSTRAINT fk_notices_account_id REFERENCES accounts,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX ix_notices_account_id_created_at ON notices (account_id, created_at);
CREATE INDEX ix_notices_created_at_id ON notices (created_at, id);

CREATE TABLE notice_deliveries (
    notice_id text NOT NULL CONSTRAINT fk_notice_deliveries_notice_id REFERENCES notices,
    channel text NOT NULL CONSTRAINT ck_notice_deliveries_channel CHECK (channel IN ('email', 'webhook')),
    target text NOT NULL,
    state text NOT NULL
        CONSTRAINT ck_notice_deliveries_state CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL,
    next_at timestamptz NOT NULL,
    last_error text,
    delivered_at timestamptz,
    CONSTRAINT pk_notice_deliveries PRIMARY KEY (notice_id, channel, target)
);
CREATE INDEX ix_notice_deliveries_pending ON notice_deliveries (next_at) WHERE state = 'pending';

CREATE TABLE webhooks (
    id text CONSTRAINT pk_webhooks PRIMARY KEY,
    account_id text CONSTRAINT fk_webhooks_account_id REFERENCES accounts,
    url text NOT NULL,
    secret text NOT NULL,
    events jsonb,
    created_at timestamptz NOT NULL,
    disabled_at timestamptz,
    disabled_reason text
);

ALTER TABLE accounts ADD COLUMN billing_email text;
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables, and what became of every notice with them."""
    op.execute("ALTER TABLE accounts DROP COLUMN billing_email")
    op.execute("DROP TABLE webhooks, notice_deliveries, notices")
