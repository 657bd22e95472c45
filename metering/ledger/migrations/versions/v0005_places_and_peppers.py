"""Add from where a key may be used, and what a change of peppers has to know."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE keys ADD COLUMN allow_networks jsonb, ADD COLUMN allow_domains jsonb",
    # The digest of the same text under a newer pepper; none as long as that is not known.
    "ALTER TABLE credentials ADD COLUMN carried_to text",
    "CREATE INDEX ix_credentials_pepper_id_digest ON credentials (pepper_id, digest)",
    # None for a token that was made before peppers of tokens were written down.
    "ALTER TABLE tokens ADD COLUMN pepper_id text",
)


def upgrade() -> None:
    """Add the columns, which are empty for what is there."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop the columns with what they hold."""
    op.execute("ALTER TABLE tokens DROP COLUMN pepper_id")
    op.execute("DROP INDEX ix_credentials_pepper_id_digest")
    op.execute("ALTER TABLE credentials DROP COLUMN carried_to")
    op.execute("ALTER TABLE keys DROP COLUMN allow_networks, DROP COLUMN allow_domains")
