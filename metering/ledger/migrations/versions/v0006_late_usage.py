"""Note which months of which keys were counted on after they were rated, whoever writes the counts."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE late_usage (
        key_id text NOT NULL,
        period_first date NOT NULL,
        changes bigint NOT NULL DEFAULT 1,
        CONSTRAINT pk_late_usage PRIMARY KEY (key_id, period_first)
    )""",
    # The lock lets whoever is about to rate wait for writers that do not know yet which days are rated. It is
    # taken before they look, so that a writer was either waited for or finds the mark.
    """
    CREATE FUNCTION note_late_usage() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        rated date;
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(x'62696C6C'::int, 0);
        SELECT DATE '0001-01-01' + (value - 1)::int INTO rated FROM marks WHERE name = 'rated';
        IF FOUND THEN
            INSERT INTO late_usage AS kept (key_id, period_first)
            SELECT DISTINCT key_id, date_trunc('month', day::timestamp)::date FROM touched WHERE day < rated
            ORDER BY 1, 2
            ON CONFLICT (key_id, period_first) DO UPDATE SET changes = kept.changes + 1;
        END IF;
        RETURN NULL;
    END $$""",
    *(
        f"CREATE TRIGGER note_late_{verb.lower()} AFTER {verb} ON usage_daily"
        " REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION note_late_usage()"
        for verb in ("INSERT", "UPDATE")
    ),
    # What was rated before this table was there is compared once.
    """
    INSERT INTO marks (name, value)
    SELECT 'rated', max(period_last_excluded) - DATE '0001-01-01' + 1 FROM invoices
    HAVING max(period_last_excluded) IS NOT NULL""",
    """
    INSERT INTO late_usage (key_id, period_first)
    WITH billed AS (
        SELECT key_id, period_first, min(first_day) AS first_day, max(last_excluded) AS last_excluded,
            sum(calls) AS calls, sum(taken) AS taken, sum(waived) AS waived
        FROM invoice_keys GROUP BY 1, 2
    )
    SELECT billed.key_id, billed.period_first
    FROM billed JOIN usage_daily AS used ON used.key_id = billed.key_id
        AND used.day >= billed.first_day AND used.day < billed.last_excluded
    GROUP BY billed.key_id, billed.period_first, billed.calls, billed.taken, billed.waived
    HAVING (billed.calls, billed.taken, billed.waived)
        IS DISTINCT FROM (sum(used.calls), sum(used.taken), sum(used.waived))""",
)


def upgrade() -> None:
    """Make the table and what fills it."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop both; late counts that no invoice has told yet are not found again by earlier versions."""
    op.execute("DROP TRIGGER note_late_insert ON usage_daily")
    op.execute("DROP TRIGGER note_late_update ON usage_daily")
    op.execute("DROP FUNCTION note_late_usage")
    op.execute("DROP TABLE late_usage")
    op.execute("DELETE FROM marks WHERE name = 'rated'")
