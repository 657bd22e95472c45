"""Make the first tables: accounts, keys, credentials, usage, tokens, audit, idempotency."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, and not taken from `tables`: a step of the past must stay what it was when the tables move on.
STATEMENTS = (
    """
    CREATE TABLE accounts (
        id text CONSTRAINT pk_accounts PRIMARY KEY,
        name text NOT NULL,
        main_domain text,
        currency text NOT NULL,
        first_request_at timestamptz,
        created_at timestamptz NOT NULL,
        closed_at timestamptz
    )""",
    "CREATE INDEX ix_accounts_created_at_id ON accounts (created_at, id)",
    """
    CREATE TABLE keys (
        id text CONSTRAINT pk_keys PRIMARY KEY,
        account_id text NOT NULL CONSTRAINT fk_keys_account_id REFERENCES accounts (id),
        plan text NOT NULL,
        site text,
        label text,
        created_at timestamptz NOT NULL,
        purchased_at timestamptz,
        daily_limit bigint CONSTRAINT ck_keys_daily_limit CHECK (daily_limit >= 0),
        unlimited boolean NOT NULL,
        "window" text CONSTRAINT ck_keys_window CHECK ("window" IN ('day', 'rolling_24h')),
        expires_at timestamptz,
        revoked_at timestamptz,
        suspended_at timestamptz,
        suspended_reason text,
        closed_at timestamptz,
        oldest_unpaid_issued_on date,
        default_provider text,
        default_search_method text,
        signing_secret text,
        revision bigint NOT NULL,
        projected_revision bigint NOT NULL
    )""",
    "CREATE INDEX ix_keys_account_id ON keys (account_id)",
    "CREATE INDEX ix_keys_created_at_id ON keys (created_at, id)",
    "CREATE INDEX ix_keys_unprojected ON keys (id) WHERE projected_revision < revision",
    """
    CREATE TABLE credentials (
        digest text CONSTRAINT pk_credentials PRIMARY KEY,
        key_id text NOT NULL CONSTRAINT fk_credentials_key_id REFERENCES keys (id),
        pepper_id text NOT NULL,
        hint text NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz
    )""",
    "CREATE INDEX ix_credentials_key_id ON credentials (key_id)",
    """
    CREATE TABLE usage_daily (
        key_id text NOT NULL,
        day date NOT NULL,
        method text NOT NULL,
        class text NOT NULL,
        calls bigint NOT NULL,
        taken bigint NOT NULL,
        waived bigint NOT NULL,
        CONSTRAINT pk_usage_daily PRIMARY KEY (key_id, day, method, class)
    ) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_usage_daily_day ON usage_daily USING brin (day)",
    """
    CREATE TABLE usage_reasons_daily (
        key_id text NOT NULL,
        day date NOT NULL,
        effect text NOT NULL CONSTRAINT ck_usage_reasons_daily_effect CHECK (effect IN ('denied', 'waived')),
        reason text NOT NULL,
        units bigint NOT NULL,
        CONSTRAINT pk_usage_reasons_daily PRIMARY KEY (key_id, day, effect, reason)
    ) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_usage_reasons_daily_day ON usage_reasons_daily USING brin (day)",
    """
    CREATE TABLE key_days (
        key_id text NOT NULL,
        day date NOT NULL,
        used bigint NOT NULL,
        back bigint NOT NULL,
        first_at timestamptz,
        buckets jsonb,
        CONSTRAINT pk_key_days PRIMARY KEY (key_id, day)
    ) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_key_days_day ON key_days USING brin (day)",
    """
    CREATE TABLE tokens (
        id text CONSTRAINT pk_tokens PRIMARY KEY,
        name text NOT NULL,
        role text NOT NULL,
        digest text NOT NULL CONSTRAINT uq_tokens_digest UNIQUE,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz
    )""",
    """
    CREATE TABLE audit (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_audit PRIMARY KEY,
        at timestamptz NOT NULL,
        actor text NOT NULL,
        action text NOT NULL,
        object text NOT NULL,
        object_id text NOT NULL,
        before jsonb,
        after jsonb,
        request_id text
    )""",
    "CREATE INDEX ix_audit_object_id_id ON audit (object_id, id)",
    """
    CREATE TABLE idempotency (
        key text NOT NULL,
        actor text NOT NULL,
        route text NOT NULL,
        request_hash text NOT NULL,
        status integer,
        body text,
        created_at timestamptz NOT NULL,
        CONSTRAINT pk_idempotency PRIMARY KEY (key, actor, route)
    )""",
    "CREATE INDEX ix_idempotency_created_at ON idempotency (created_at)",
)
TABLES = "idempotency, audit, tokens, key_days, usage_reasons_daily, usage_daily, credentials, keys, accounts"


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables with all they hold."""
    op.execute(f"DROP TABLE {TABLES}")
