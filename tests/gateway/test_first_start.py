from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import config, first_start
from gateway.control.auth import token_digest
from gateway.first_start import (
    DEMO_KEY_FILE,
    TOKEN_FILE,
    LedgerError,
    demo_account,
    first_token,
    open_ledger,
)
from gateway.ports import free_port
from gateway.settings import Settings
from metering.ledger import make_engine, revisions, tables, tokens
from metering.ledger.audit import Author
from policies import keys
from tests.metering.records import find_record


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """The example's settings with a data directory of the test's own."""
    return config.load(None, {config.DATA_DIR: str(data_dir)})


async def count(engine: AsyncEngine, table: sa.Table) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one()


async def test_the_first_token_is_an_admins_and_only_its_digest_is_kept(
    engine: AsyncEngine, settings: Settings
) -> None:
    """The text lies in the data directory, for this user alone; the audit log says who made it."""
    await first_token(engine, settings)
    file = settings.stores.data_dir / TOKEN_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text().strip()
    async with engine.connect() as connection:
        token = await tokens.find(connection, token_digest(text, settings.security))
        actors = (await connection.execute(sa.select(tables.audit.c.actor))).scalars().all()
    assert token is not None
    assert token.role == "admin"
    assert actors == ["first start"]


async def test_a_ledger_with_a_token_gets_no_other(engine: AsyncEngine, settings: Settings) -> None:
    """A deleted file does not open the gateway again, and a revoked token stays the last word."""
    await first_token(engine, settings)
    (settings.stores.data_dir / TOKEN_FILE).unlink()
    async with engine.begin() as connection:
        (only,) = (await tokens.listed(connection)).items
        await tokens.revoke(connection, only.id, now=datetime.now(UTC), by=Author("test"))
    await first_token(engine, settings)
    assert await count(engine, tables.tokens) == 1
    assert not (settings.stores.data_dir / TOKEN_FILE).exists()


async def test_two_nodes_that_start_at_once_make_one_token_and_one_key(
    engine: AsyncEngine, redis: Redis, settings: Settings
) -> None:
    """Whoever comes second finds what the first made."""
    await asyncio.gather(*(first_token(engine, settings) for _ in range(3)))
    demos = await asyncio.gather(*(demo_account(engine, redis, settings) for _ in range(3)))
    assert await count(engine, tables.tokens) == 1
    assert await count(engine, tables.keys) == 1
    assert len(set(demos)) == 1


async def test_the_demos_key_works_at_once_and_is_found_again(
    engine: AsyncEngine, redis: Redis, settings: Settings
) -> None:
    """The key is in force in Redis when it is printed, and the same at the next start."""
    demo = await demo_account(engine, redis, settings)
    assert (settings.stores.data_dir / DEMO_KEY_FILE).stat().st_mode & 0o777 == 0o600
    record = await find_record(redis, keys.digest(demo.key, settings.security.peppers[0][1]))
    assert record is not None
    assert record.plan == "K1"
    assert record.account_id == demo.account_id
    assert await demo_account(engine, redis, settings) == demo


async def test_a_key_file_of_another_ledger_is_replaced(
    engine: AsyncEngine, redis: Redis, settings: Settings
) -> None:
    """A file that names a key the ledger does not know is no reason to print a key that does not work."""
    file = settings.stores.data_dir / DEMO_KEY_FILE
    file.write_text(keys.issue(bytes(16)))
    demo = await demo_account(engine, redis, settings)
    assert demo.key != keys.issue(bytes(16))
    assert file.read_text().strip() == demo.key


async def test_a_ledger_that_stays_away_is_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """A person learns which database does not answer; the log learns no password."""
    monkeypatch.setattr(first_start, "LEDGER_DEADLINE_S", 0.0)
    engine = make_engine(f"postgresql://tallygate:canary@127.0.0.1:{free_port()}/tallygate")
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:\d+/tallygate cannot be used") as raised:
        await open_ledger(engine)
    assert "canary" not in str(raised.value)
    await engine.dispose()


async def test_a_wrong_password_or_database_is_an_error_at_once(postgres_url: str) -> None:
    """Nobody waits for what no waiting can mend."""
    for url in (
        postgres_url.replace("tallygate:", "tallygate:x"),
        postgres_url.replace("/tallygate?", "/nope?"),
    ):
        engine = make_engine(url)
        async with asyncio.timeout(10):
            with pytest.raises(LedgerError, match=r"password authentication failed|does not exist"):
                await open_ledger(engine)
        await engine.dispose()


async def test_the_demos_key_is_made_while_redis_is_away(engine: AsyncEngine, settings: Settings) -> None:
    """The start does not fail for it; the key holds when Redis is back."""
    redis = Redis.from_url(f"redis://127.0.0.1:{free_port()}")
    demo = await demo_account(engine, redis, settings)
    await redis.aclose()
    async with engine.connect() as connection:
        (pending,) = await revisions.unprojected(connection)
    assert pending.account_id == demo.account_id


async def test_a_ledger_that_comes_up_late_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """A database that is started together with the gateway may be the slower one."""
    monkeypatch.setattr(first_start, "LEDGER_RETRY_S", 0.01)
    tries = []

    async def migrate(engine: AsyncEngine) -> None:
        tries.append(engine)
        if len(tries) < 3:
            raise ConnectionRefusedError

    monkeypatch.setattr(first_start, "migrate", migrate)
    engine = make_engine(database_url)
    await open_ledger(engine)
    assert len(tries) == 3
    await engine.dispose()
