"""Which records a gateway finds in Redis."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import accounts, key_changes, keys
from metering.ledger.credentials import NewCredential
from metering.projecting import project_pending
from metering.projection import project
from policies.quota import Window
from tests.metering.records import fetch_record, find_record
from tests.metering.samples import BY, KEY, WHEN, make_key, record


async def test_record_is_found_by_every_credential(redis: Redis) -> None:
    """Each digest leads to the record of its key, and an unknown one to nothing."""
    made = record()
    assert await project(redis, [made]) == {KEY: 1}
    assert await find_record(redis, f"digest of {KEY}") == made
    assert await fetch_record(redis, KEY) == made
    assert await find_record(redis, "another") is None
    assert await fetch_record(redis, "key_unknown") is None


async def test_newer_revision_wins_in_any_order(redis: Redis) -> None:
    """Of two revisions that arrive at once the newer one is in force, whichever came last."""
    await project(redis, [record()])
    revisions = [record(revision=number, daily_limit=number) for number in range(2, 12)]
    await asyncio.gather(*[project(redis, [each]) for each in reversed(revisions)])
    assert await fetch_record(redis, KEY) == revisions[-1]


async def test_all_facts_of_a_key_arrive(redis: Redis, engine: AsyncEngine) -> None:
    """Whatever the ledger knows of a key that a decision needs is in its record."""
    key = await make_key(engine, purchased_at=WHEN, default_provider="Taobao", window=Window.ROLLING_24H)
    async with engine.begin() as connection:
        await accounts.change(connection, key.account_id, {"first_request_at": WHEN}, now=WHEN, by=BY)
        facts = {
            "daily_limit": 7,
            "unlimited": True,
            "oldest_unpaid_issued_on": date(2026, 11, 10),
            "expires_at": WHEN + timedelta(days=9),
            "default_search_method": "Official",
            "signing_secret": "sealed",
        }
        await key_changes.change(connection, key.id, facts, now=WHEN, by=BY)
        await key_changes.suspend(connection, key.id, reason="abuse", now=WHEN, by=BY)
        await key_changes.close(connection, key.id, at=WHEN + timedelta(days=3), now=WHEN, by=BY)
    assert await project_pending(redis, engine) == 1
    found = await find_record(redis, "digest of shop")
    assert found is not None
    now = WHEN.timestamp()
    assert (found.key_id, found.account_id, found.plan, found.revision) == (key.id, key.account_id, "K1", 5)
    assert (found.purchased_at, found.first_request_at, found.closed_at) == (now, now, now + 3 * 86_400)
    assert (found.daily_limit, found.unlimited, found.window) == (7, True, Window.ROLLING_24H)
    assert (found.expires_at, found.oldest_unpaid_issued_on) == (now + 9 * 86_400, date(2026, 11, 10))
    assert (found.default_provider, found.default_search_method) == ("Taobao", "Official")
    assert (found.signing_secret, found.suspended, found.revoked_at) == ("sealed", True, None)


async def test_rotated_key_answers_to_both_until_the_overlap_ends(redis: Redis, engine: AsyncEngine) -> None:
    """During a rotation both credentials lead to the record, which says when the old one ends."""
    key = await make_key(engine)
    async with engine.begin() as connection:
        fresh = NewCredential("new digest", "p1", "abcd")
        await key_changes.rotate(connection, key.id, fresh, overlap_s=60, now=WHEN, by=BY)
    await project_pending(redis, engine)
    for digest in ("digest of shop", "new digest"):
        found = await find_record(redis, digest)
        assert found is not None
        assert found.credentials == {"digest of shop": WHEN.timestamp() + 60, "new digest": None}


async def test_only_changed_keys_are_pending(redis: Redis, engine: AsyncEngine) -> None:
    """A key is projected once for each change, and an account's change concerns all its keys."""
    key = await make_key(engine)
    await make_key(engine, name="other")
    assert await project_pending(redis, engine) == 2
    assert await project_pending(redis, engine) == 0
    async with engine.begin() as connection:
        await accounts.change(connection, key.account_id, {"first_request_at": WHEN}, now=WHEN, by=BY)
        await accounts.change(connection, key.account_id, {"name": "renamed"}, now=WHEN, by=BY)
    assert await project_pending(redis, engine) == 1
    found = await fetch_record(redis, key.id)
    assert found is not None
    assert found.first_request_at == WHEN.timestamp()


async def test_more_keys_than_a_chunk_are_all_put(redis: Redis) -> None:
    """A long list of records is put in several parts."""
    made = [record(f"key_{number:016x}") for number in range(2300)]
    assert set((await project(redis, made)).values()) == {1}
    assert await redis.dbsize() == 4600


async def test_facts_are_written_in_utc(engine: AsyncEngine) -> None:
    """Instants come back from the ledger in UTC, whatever the server's zone."""
    key = await make_key(engine)
    async with engine.connect() as connection:
        found = await keys.get(connection, key.id)
    assert found.created_at == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert found.created_at.utcoffset() == timedelta(0)
