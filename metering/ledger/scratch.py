"""A ledger to throw away: a database of its own on a server that has others."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.ledger.engine import make_engine, migrate
from metering.ledger.tables import usage_daily

PREFIX = "tallygate_scratch_"


@asynccontextmanager
async def beside(url: str) -> AsyncIterator[AsyncEngine]:
    """Make a migrated database beside that of `url`, and drop it when the block ends.

    The role needs the right to make databases. Writes are not waited for: nothing need outlive a crash.
    """
    name = PREFIX + secrets.token_hex(6)
    server = make_engine(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with server.connect() as connection:
            await connection.execute(sa.text(f"CREATE DATABASE {name}"))
        try:
            async with server.connect() as connection:
                await connection.execute(sa.text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
            engine = make_engine(
                sa.make_url(url).set(database=name).render_as_string(hide_password=False),
                command_timeout_s=600.0,
                pre_ping=False,
            )
            try:
                await migrate(engine)
                yield engine
            finally:
                await engine.dispose()
        finally:
            async with server.connect() as connection:
                await connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    finally:
        await server.dispose()


async def billable(connection: AsyncConnection) -> int:
    """Return all units that were ever counted and not waived."""
    table = usage_daily
    return int(
        (await connection.execute(sa.select(sa.func.sum(table.c.taken - table.c.waived)))).scalar_one() or 0
    )
