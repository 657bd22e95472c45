"""Run migrations on the connection that `metering.ledger.engine` hands over; there is no other way in."""

from __future__ import annotations

from alembic import context

from metering.ledger.billing_tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
