"""Note which servers held the counters at the last roll-up, and when others took their place."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE counter_servers (
        run_id text NOT NULL,
        seen_at timestamptz NOT NULL,
        address text NOT NULL,
        slots jsonb NOT NULL,
        replid text NOT NULL,
        "offset" bigint NOT NULL,
        former_replid text,
        former_offset bigint,
        appends boolean NOT NULL,
        shard text,
        mark bigint NOT NULL,
        replicas integer NOT NULL,
        CONSTRAINT pk_counter_servers PRIMARY KEY (run_id)
    )""",
    """
    CREATE TABLE interruptions (
        id text NOT NULL,
        kind text NOT NULL,
        evidence text NOT NULL,
        since timestamptz NOT NULL,
        until timestamptz NOT NULL,
        slots jsonb NOT NULL,
        former_address text NOT NULL,
        former_run_id text NOT NULL,
        former_replid text NOT NULL,
        seen_offset bigint NOT NULL,
        address text NOT NULL,
        run_id text NOT NULL,
        replid text NOT NULL,
        reached_offset bigint,
        acknowledged_at timestamptz,
        acknowledged_by text,
        reason text,
        CONSTRAINT pk_interruptions PRIMARY KEY (id),
        CONSTRAINT ck_interruptions_kind
            CHECK (kind IN ('failover', 'restart', 'replacement', 'emptied')),
        CONSTRAINT ck_interruptions_evidence
            CHECK (evidence IN ('confirmed', 'proven', 'unknown', 'behind'))
    )""",
    "CREATE INDEX ix_interruptions_until_id ON interruptions (until, id)",
)


def upgrade() -> None:
    """Make the tables; the first roll-up fills the one of servers."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop both with what they hold."""
    op.execute("DROP TABLE interruptions")
    op.execute("DROP TABLE counter_servers")
