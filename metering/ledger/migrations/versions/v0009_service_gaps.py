"""Keep the days in which an expired key was out of service before it was let go on."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; what was let go on before is not known."""
    op.execute(
        """
        CREATE TABLE service_gaps (
            key_id text NOT NULL,
            first_day date NOT NULL,
            last_excluded date NOT NULL,
            made_at timestamptz NOT NULL,
            made_by text NOT NULL,
            CONSTRAINT pk_service_gaps PRIMARY KEY (key_id, first_day),
            CONSTRAINT fk_service_gaps_key_id_keys FOREIGN KEY (key_id) REFERENCES keys (id),
            CONSTRAINT ck_service_gaps_days CHECK (first_day < last_excluded)
        )"""
    )


def downgrade() -> None:
    """Forget them: their days are billed as any others."""
    op.execute("DROP TABLE service_gaps")
