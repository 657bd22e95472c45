"""How the ledger's schema comes to be."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import engine as ledger_engine
from metering.ledger import inventory, make_engine, migrate
from metering.ledger.tables import metadata
from tests.schema import set_back


@pytest.fixture
async def empty_url(postgres_url: str) -> str:
    """The URL of a database without tables."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("DROP DATABASE IF EXISTS empty WITH (FORCE)")
        await connection.execute("CREATE DATABASE empty")
    finally:
        await connection.close()
    return str(sa.make_url(postgres_url).set(database="empty").render_as_string(hide_password=False))


async def tables_of(engine: AsyncEngine) -> set[str]:
    """The names of all tables."""
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))


async def test_migrations_make_the_tables_that_the_queries_know(empty_url: str) -> None:
    """What the migrations make and what the queries are written for is the same, column by column."""
    engine = make_engine(empty_url)
    await migrate(engine)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_type": True}), metadata
            )
        )
    assert differences == []
    assert await tables_of(engine) == {*metadata.tables, "alembic_version"}
    await engine.dispose()


async def test_migrations_at_once_wait_for_each_other(empty_url: str) -> None:
    """Several processes that start together migrate once, and a migrated ledger is left as it is."""
    engines = [make_engine(empty_url) for _ in range(3)]
    await asyncio.gather(*map(migrate, engines))
    await migrate(engines[0])
    assert "key_days" in await tables_of(engines[0])
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("url", ["mysql://host/database", "sqlite:///file.db", "redis://host"])
def test_other_databases_are_refused(url: str) -> None:
    """The error says which kind of URL is right."""
    with pytest.raises(ValueError, match="postgresql://"):
        make_engine(url)


def test_sslmode_is_understood() -> None:
    """A URL as libpq writes it works, and its other parts stay."""
    url = make_engine("postgres://user:word@host:6543/base?sslmode=require").url
    assert (url.drivername, url.port, dict(url.query)) == ("postgresql+asyncpg", 6543, {"ssl": "require"})


async def test_a_migration_does_not_make_others_wait_behind_it(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody reads a table that it changes it gives up, changing nothing; afterwards it succeeds."""
    monkeypatch.setattr(ledger_engine, "LOCK_TIMEOUT", "50ms")
    engine = make_engine(empty_url)
    await migrate(engine)
    await set_back(empty_url, "0004")  # the one after it adds columns to keys
    reader = await asyncpg.connect(empty_url)
    async with reader.transaction():
        await reader.fetch("SELECT * FROM keys")
        with pytest.raises(sa.exc.DBAPIError, match="lock timeout"):
            await migrate(engine)
        assert await revision_of(engine) == "0004"
    await migrate(engine)
    assert await revision_of(engine) == await asyncio.to_thread(newest)
    await reader.close()
    await engine.dispose()


def newest() -> str:
    """The newest revision."""
    return ledger_engine.revisions()[0]


async def revision_of(engine: AsyncEngine) -> str | None:
    """The schema's revision."""
    async with engine.connect() as connection:
        return (await inventory.take(connection)).revision
