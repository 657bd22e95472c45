"""Fixtures for tests against real stores; each pytest-xdist worker has servers of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import make_engine, migrate
from tests import servers
from tests.mutation.patience import SECONDS, Patience

settings.register_profile(
    "fast",
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep", max_examples=1000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_configure(config: pytest.Config) -> None:
    """Give up tests that do not end, where that was asked for."""
    if SECONDS in os.environ:
        config.pluginmanager.register(Patience(int(os.environ[SECONDS])))


MAY_BLOCK = [
    ("metering/ledger/engine.py", "_upgrade"),  # reads migrations, before anything is served
    ("tests/schema.py", "_downgrade"),  # the same, the other way
    ("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args"),  # looks for certificates at home
    ("<frozen importlib._bootstrap>", "_find_and_load"),  # an import within a function, once
    ("redis/utils.py", "get_lib_version"),  # reads its own metadata for every new connection
]


@pytest.fixture(scope="session", autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test when code of these packages blocks the event loop."""
    with blockbuster_ctx(scanned_modules=["gateway", "metering", "policies", "demo"]) as found:
        for function in found.functions.values():
            for file, name in MAY_BLOCK:
                function.can_block_in(file, name)
        yield found


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running Valkey, shared by the session's tests."""
    with servers.valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of an empty Valkey."""
    client = Redis.from_url(valkey_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running PostgreSQL, whose database may be in any state."""
    with servers.postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
async def database_url(postgres_url: str) -> str:
    """The URL of a migrated database without rows."""
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await _tables(connection)
        if "alembic_version" not in tables:
            engine = make_engine(postgres_url)
            await migrate(engine)
            await engine.dispose()
            return postgres_url
        tables.remove("alembic_version")
        # Triggers that keep rows from being removed stay silent.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
    finally:
        await connection.close()
    return postgres_url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The ledger's engine on a migrated database without rows."""
    made = make_engine(database_url)
    yield made
    await made.dispose()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    place = tmp_path / "data"
    place.mkdir()
    return place


async def _tables(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return [row["tablename"] for row in rows]
