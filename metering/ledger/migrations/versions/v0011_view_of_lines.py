"""Let the view `usage_daily` unpack a day's arrays side by side: as a table each is stored on the way."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

VIEW = """
    CREATE OR REPLACE VIEW usage_daily AS
    SELECT key_id, day, line.method, line.class, line.calls, line.taken, line.waived
    FROM key_days CROSS JOIN LATERAL"""
SIDE_BY_SIDE = """ (
        SELECT unnest(methods) AS method, unnest(classes) AS class, unnest(calls) AS calls,
            unnest(taken) AS taken, unnest(waived) AS waived
    ) AS line"""
AS_A_TABLE = """ unnest(methods, classes, calls, taken, waived)
        AS line (method, class, calls, taken, waived)"""


def upgrade() -> None:
    """Make the view anew, with the same columns."""
    op.execute(VIEW + SIDE_BY_SIDE)


def downgrade() -> None:
    """Make it as it was."""
    op.execute(VIEW + AS_A_TABLE)
