"""What a first start makes: the ledger's schema, a token to begin with, and the demo's account and key."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
import structlog
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.config import TOKEN_FILE
from gateway.control.auth import Role, issue_token, token_digest
from gateway.settings import Settings
from metering.clients import Client, connect
from metering.ledger import accounts, keys, make_engine, migrate, tables, tokens
from metering.ledger.audit import Author
from metering.ledger.credentials import NewCredential
from metering.projecting import project_pending
from policies import keys as key_text

DEMO_KEY_FILE = "demo-key"
DEMO_PLAN = "K1"
LEDGER_DEADLINE_S = 30.0  # for a database that is started at the same time as this program
LEDGER_RETRY_S = 0.5
_LOCK = 0x74616C6C7A  # one first start at a time, whichever node begins

# Classes of SQLSTATE that no waiting helps against: wrong user or password, no such database, missing rights.
_FINAL = {"28", "3D", "42"}
_AUTHOR = Author("first start")
log = structlog.get_logger("gateway.supervisor")


class LedgerError(Exception):
    """The ledger cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's account and its key's text."""

    account_id: str
    key: str


async def prepare(settings: Settings, *, demo: bool) -> Demo | None:
    """Make the ledger ready to be served from; with `demo` also the demo's account, which is returned.

    Raises LedgerError.
    """
    stores = settings.stores
    assert stores.database_url is not None, "the embedded store's URL is in the environment by now"
    assert stores.redis_url is not None, "the embedded store's URL is in the environment by now"
    engine = make_engine(stores.database_url)
    redis = connect(stores.redis_url, timeout_s=stores.redis_timeout_s)
    try:
        await open_ledger(engine)
        await first_token(engine, settings)
        return await demo_account(engine, redis, settings) if demo else None
    finally:
        await redis.aclose()
        await engine.dispose()


async def open_ledger(engine: AsyncEngine) -> None:
    """Bring the schema up to date, waiting for a database that is not up yet; raises LedgerError."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + LEDGER_DEADLINE_S
    told = False
    while True:
        try:
            await migrate(engine)
        except (OSError, TimeoutError, sa.exc.DBAPIError) as error:
            place = engine.url.render_as_string(hide_password=True)
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            if str(getattr(cause, "sqlstate", ""))[:2] in _FINAL or loop.time() > ends:
                raise LedgerError(f"The ledger at {place} cannot be used: {cause}") from error
            if not told:
                log.warning("the ledger cannot be used yet", ledger=place, error=str(cause))
                told = True
            await asyncio.sleep(LEDGER_RETRY_S)
        else:
            return


async def first_token(engine: AsyncEngine, settings: Settings) -> None:
    """Make an admin token when the ledger has none at all, and leave its text in the data directory."""
    async with engine.begin() as connection:
        await _alone(connection)
        if not (await tokens.listed(connection, limit=1)).items:
            await _leave_token(connection, settings, _AUTHOR)


async def another_token(engine: AsyncEngine, settings: Settings) -> bool:
    """Make an admin token where the data directory has none that opens this ledger, and say so.

    For who restores a ledger, and has all of it in hand anyway: the text of its first one may be lost, and
    the one that is here may be of another ledger.
    """
    text = await asyncio.to_thread(read_secret, settings.stores.data_dir / TOKEN_FILE)
    async with engine.begin() as connection:
        if text is not None and await _opens(connection, text, settings):
            return False
        await _leave_token(connection, settings, Author("restore"))
    return True


async def _opens(connection: AsyncConnection, text: str, settings: Settings) -> bool:
    now = datetime.now(UTC)
    for _, pepper in settings.security.peppers:
        token = await tokens.find(connection, key_text.digest(text, pepper))
        if token is not None and token.valid_at(now):
            return True
    return False


async def _leave_token(connection: AsyncConnection, settings: Settings, by: Author) -> None:
    text = issue_token()
    # The file first: a token whose text is nowhere would lock everyone out.
    await asyncio.to_thread(write_secret, settings.stores.data_dir / TOKEN_FILE, text)
    await tokens.create(
        connection,
        name=TOKEN_FILE,
        role=Role.ADMIN,
        digest=token_digest(text, settings.security),
        pepper_id=settings.security.peppers[0][0],
        now=datetime.now(UTC),
        by=by,
    )


async def demo_account(engine: AsyncEngine, redis: Client, settings: Settings) -> Demo:
    """Return the demo's account and key, made on the first start; the key works at once if Redis answers."""
    file = settings.stores.data_dir / DEMO_KEY_FILE
    pepper_id, pepper = settings.security.peppers[0]
    async with engine.begin() as connection:
        await _alone(connection)
        text = await asyncio.to_thread(read_secret, file)
        account_id = None if text is None else await _account_of(connection, key_text.digest(text, pepper))
        if text is None or account_id is None:
            now = datetime.now(UTC)
            text = key_text.issue(secrets.token_bytes(key_text.ENTROPY_BYTES))
            await asyncio.to_thread(write_secret, file, text)
            account = await accounts.create(
                connection, name="Demo site", currency=settings.billing.currency, now=now, by=_AUTHOR
            )
            credential = NewCredential(key_text.digest(text, pepper), pepper_id, key_text.hint(text))
            new = keys.NewKey(account.id, DEMO_PLAN, credential, label="demo", purchased_at=now)
            await keys.create(connection, new, now=now, by=_AUTHOR)
            account_id = account.id
    try:
        await project_pending(redis, engine)
    except RedisError as error:
        log.warning("the demo's key holds as soon as Redis answers", error=str(error))
    return Demo(account_id, text)


def write_secret(path: Path, text: str) -> None:
    """Write a secret whole or not at all, readable for this user only."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text + "\n", encoding="ascii")
    draft.replace(path)


def read_secret(path: Path) -> str | None:
    """Return what `write_secret` wrote, or None."""
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


async def _account_of(connection: AsyncConnection, digest: str) -> str | None:
    both = tables.keys.join(tables.credentials, tables.keys.c.id == tables.credentials.c.key_id)
    query = sa.select(tables.keys.c.account_id).select_from(both).where(tables.credentials.c.digest == digest)
    return (await connection.execute(query)).scalar_one_or_none()


async def _alone(connection: AsyncConnection) -> None:
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
