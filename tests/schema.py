"""A ledger's schema as it was in an earlier version."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from metering.ledger import make_engine
from metering.ledger.engine import MIGRATIONS


async def set_back(url: str, revision: str) -> None:
    """Take a ledger back to an earlier revision, as it is ahead of an upgrade."""
    engine = make_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_downgrade, revision)
    await engine.dispose()


def _downgrade(connection: Connection, revision: str) -> None:
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    settings.attributes["connection"] = connection
    command.downgrade(settings, revision)
