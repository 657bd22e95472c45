"""Connections to PostgreSQL, and bringing its schema up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x74616C6C79  # one migration at a time, whoever starts it ("tally" in ASCII)
LOCK_TIMEOUT = "2s"  # for each lock of a migration
_DRIVER = "postgresql+asyncpg"

# What asyncpg itself raises, where rows are copied or read by it and not by SQLAlchemy: a full disk, say.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError)


async def driver_of(connection: AsyncConnection) -> Any:
    """Return asyncpg's connection, in the transaction that SQLAlchemy began; it raises DRIVER_ERRORS."""
    return (await connection.get_raw_connection()).driver_connection


def make_engine(
    url: str, *, pool_size: int = 5, command_timeout_s: float = 60.0, pre_ping: bool = True
) -> AsyncEngine:
    """Return an engine for `postgresql://user:password@host/database`; nothing is connected yet.

    `sslmode` as libpq writes it is understood. With `pre_ping` a connection that broke while it lay idle is
    replaced before it is used, at the price of a round trip. Raises ValueError for a URL of another database.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError(
            f"the ledger is PostgreSQL: its URL begins with postgresql://, not {parsed.drivername}://"
        )
    parsed = parsed.set(drivername=_DRIVER)
    mode = parsed.query.get("sslmode")
    if isinstance(mode, str):
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return create_async_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=pre_ping,
        connect_args={
            "timeout": 5,
            "command_timeout": command_timeout_s,
            "server_settings": {"timezone": "UTC", "application_name": "tallygate"},
        },
    )


async def migrate(engine: AsyncEngine) -> None:
    """Bring the schema to the newest version; processes that do it at once wait for each other.

    A change of a table has to wait for whoever uses it, and everybody else then waits behind the change. So
    it gives up after `LOCK_TIMEOUT` and nothing is changed; who asked for it tries again.
    """
    async with engine.begin() as connection:
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        await connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        await connection.run_sync(_upgrade)


def revisions() -> list[str]:
    """Return the schema's revisions that this version knows, the newest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in scripts.walk_revisions()]


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
