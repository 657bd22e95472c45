"""Add the marks: facts about the ledger itself, such as its last roll-up."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute("CREATE TABLE marks (name text CONSTRAINT pk_marks PRIMARY KEY, value bigint NOT NULL)")


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE marks")
