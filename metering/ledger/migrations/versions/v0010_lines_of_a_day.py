"""Keep all methods of a key's day in its row of `key_days`, and show them as rows in the view `usage_daily`.

It drops the table of that name at once: no release has had it (docs/decisions/0024).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Whoever writes usage writes `key_days` first, so that nobody writes either table from here on.
EXPAND = """
    ALTER TABLE key_days
        ADD COLUMN methods text[] NOT NULL DEFAULT '{}',
        ADD COLUMN classes text[] NOT NULL DEFAULT '{}',
        ADD COLUMN calls bigint[] NOT NULL DEFAULT '{}',
        ADD COLUMN taken bigint[] NOT NULL DEFAULT '{}',
        ADD COLUMN waived bigint[] NOT NULL DEFAULT '{}'"""
# A day at a time, so that no statement takes too long.
FILL = sa.text(
    """
    INSERT INTO key_days AS kept (key_id, day, used, back, methods, classes, calls, taken, waived)
    SELECT key_id, day, 0, 0, array_agg(method ORDER BY place), array_agg(class ORDER BY place),
        array_agg(calls ORDER BY place), array_agg(taken ORDER BY place), array_agg(waived ORDER BY place)
    FROM (
        SELECT *, row_number() OVER (
            PARTITION BY key_id ORDER BY method COLLATE "C", class COLLATE "C") AS place
        FROM usage_daily WHERE day = :day
    ) AS used
    GROUP BY 1, 2
    ON CONFLICT (key_id, day) DO UPDATE SET methods = excluded.methods, classes = excluded.classes,
        calls = excluded.calls, taken = excluded.taken, waived = excluded.waived"""
)
CONTRACT = (
    """
    ALTER TABLE key_days ADD CONSTRAINT ck_key_days_lines CHECK (
        cardinality(methods) = ALL (
            ARRAY[cardinality(classes), cardinality(calls), cardinality(taken), cardinality(waived)])
        AND array_position(calls || taken || waived, NULL) IS NULL)""",
    "DROP TABLE usage_daily",
    """
    CREATE VIEW usage_daily AS
    SELECT key_id, day, line.method, line.class, line.calls, line.taken, line.waived
    FROM key_days CROSS JOIN LATERAL unnest(methods, classes, calls, taken, waived)
        AS line (method, class, calls, taken, waived)""",
    *(
        f"CREATE TRIGGER note_late_{verb.lower()} AFTER {verb} ON key_days"
        " REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION note_late_usage()"
        for verb in ("INSERT", "UPDATE")
    ),
)

BACK = (
    "DROP TRIGGER note_late_insert ON key_days",
    "DROP TRIGGER note_late_update ON key_days",
    "ALTER VIEW usage_daily RENAME TO lines",
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
    ) WITH (fillfactor = 50)""",
    "INSERT INTO usage_daily SELECT * FROM lines",
    "CREATE INDEX ix_usage_daily_day ON usage_daily USING brin (day)",
    "DROP VIEW lines",
    *(
        f"CREATE TRIGGER note_late_{verb.lower()} AFTER {verb} ON usage_daily"
        " REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION note_late_usage()"
        for verb in ("INSERT", "UPDATE")
    ),
    """
    ALTER TABLE key_days DROP CONSTRAINT ck_key_days_lines, DROP COLUMN methods, DROP COLUMN classes,
        DROP COLUMN calls, DROP COLUMN taken, DROP COLUMN waived""",
)


def upgrade() -> None:
    """Move the rows into their days."""
    op.execute(EXPAND)
    bind = op.get_bind()
    for day in bind.execute(sa.text("SELECT DISTINCT day FROM usage_daily ORDER BY 1")).scalars().all():
        bind.execute(FILL, {"day": day})
    for statement in CONTRACT:
        op.execute(statement)


def downgrade() -> None:
    """Make the table again, with a row for each method."""
    for statement in BACK:
        op.execute(statement)
