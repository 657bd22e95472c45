"""How keys change."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import CredentialTakenError, NotFoundError, audit, key_changes, keys, peppers, tables
from metering.ledger.credentials import NewCredential
from tests.metering.samples import BY, WHEN, make_key

FRESH = NewCredential("fresh digest", "p2", "efgh")


async def test_change_bumps_the_revision_and_is_audited(engine: AsyncEngine) -> None:
    """A change shows the fields it touched, from what to what."""
    key = await make_key(engine, daily_limit=5)
    changes = {
        "daily_limit": 7,
        "site": None,
        "oldest_unpaid_issued_on": date(2026, 11, 10),
        "signing_secret": "s",
    }
    async with engine.begin() as connection:
        changed = await key_changes.change(connection, key.id, changes, now=WHEN, by=BY)
        entry = (await audit.listed(connection, object_id=key.id)).items[0]
    assert (changed.revision, changed.daily_limit, changed.signing_secret) == (2, 7, "s")
    assert entry.before == {"daily_limit": 5, "oldest_unpaid_issued_on": None, "signing_secret": None}
    assert entry.after == {"daily_limit": 7, "oldest_unpaid_issued_on": "2026-11-10", "signing_secret": "set"}


async def test_change_of_nothing_leaves_no_trace(engine: AsyncEngine) -> None:
    """Setting what is set already makes neither a revision nor an audit row."""
    key = await make_key(engine, daily_limit=5)
    async with engine.begin() as connection:
        assert await key_changes.change(connection, key.id, {"daily_limit": 5}, now=WHEN, by=BY) == key
        assert await key_changes.resume(connection, key.id, now=WHEN, by=BY) == key
        assert len((await audit.listed(connection, object_id=key.id)).items) == 1


async def test_only_changeable_fields_are_set(engine: AsyncEngine) -> None:
    """A field with a verb of its own, or of none, cannot be set."""
    key = await make_key(engine)
    async with engine.begin() as connection:
        for name in ("revoked_at", "revision", "account_id", "plan"):
            with pytest.raises(KeyError, match=name):
                await key_changes.change(connection, key.id, {name: None}, now=WHEN, by=BY)
        with pytest.raises(NotFoundError):
            await key_changes.change(connection, "key_none", {"site": "x"}, now=WHEN, by=BY)


async def test_changes_at_once_all_count(engine: AsyncEngine) -> None:
    """Changes of one key wait for each other: each has a revision of its own."""
    key = await make_key(engine)

    async def change(limit: int) -> int:
        async with engine.begin() as connection:
            changed = await key_changes.change(connection, key.id, {"daily_limit": limit}, now=WHEN, by=BY)
            return changed.revision

    assert sorted(await asyncio.gather(*map(change, range(1, 6)))) == [2, 3, 4, 5, 6]


async def test_rotation_ends_the_old_credential_after_the_overlap(engine: AsyncEngine) -> None:
    """The new credential comes first; an old one never gets a later end than it had."""
    key = await make_key(engine)
    async with engine.begin() as connection:
        await key_changes.rotate(connection, key.id, FRESH, overlap_s=60, now=WHEN, by=BY)
        newest = NewCredential("newest digest", "p2", "ijkl")
        later = WHEN + timedelta(seconds=10)
        rotated = await key_changes.rotate(connection, key.id, newest, overlap_s=600, now=later, by=BY)
        ends = {credential.hint: credential.expires_at for credential in rotated.credentials}
        with pytest.raises(CredentialTakenError):
            await key_changes.rotate(connection, key.id, FRESH, overlap_s=0, now=WHEN, by=BY)
    assert rotated.credentials[0].hint == "ijkl"
    assert ends == {
        "ijkl": None,
        "efgh": later + timedelta(seconds=600),
        "wxyz": WHEN + timedelta(seconds=60),
    }
    assert rotated.revision == 3


async def test_dates_of_an_end_stay_what_they_were(engine: AsyncEngine) -> None:
    """Revoking twice keeps the first date, and so does suspending; resuming clears both date and reason."""
    key = await make_key(engine)
    later = WHEN + timedelta(hours=1)
    async with engine.begin() as connection:
        await key_changes.suspend(connection, key.id, reason="abuse", now=WHEN, by=BY)
        held = await key_changes.suspend(connection, key.id, reason="more abuse", now=later, by=BY)
        assert (held.suspended_at, held.suspended_reason) == (WHEN, "more abuse")
        free = await key_changes.resume(connection, key.id, now=later, by=BY)
        assert (free.suspended_at, free.suspended_reason) == (None, None)
        await key_changes.revoke(connection, key.id, now=WHEN, by=BY)
        assert (await key_changes.revoke(connection, key.id, now=later, by=BY)).revoked_at == WHEN
        assert (await key_changes.close(connection, key.id, at=later, now=WHEN, by=BY)).closed_at == later
        actions = [entry.action for entry in (await audit.listed(connection, object_id=key.id)).items]
    assert actions == ["key.close", "key.revoke", "key.resume", "key.suspend", "key.suspend", "key.create"]


async def test_a_text_is_carried_over_while_its_key_is_rotated(engine: AsyncEngine) -> None:
    """Neither blocks the other, and the text ends under both peppers."""
    key = await make_key(engine)
    old = key.credentials[0].digest

    async def carry() -> None:
        async with engine.begin() as connection:
            await peppers.carry(connection, old, "carried", "p2", now=WHEN, by=BY)

    async with engine.begin() as connection:
        await keys.lock_keys(connection, tables.keys.c.id == key.id)
        carried = asyncio.ensure_future(carry())
        async with asyncio.timeout(60), engine.connect() as other:
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not (await other.execute(waiting)).scalar_one():
                await asyncio.sleep(0.01)
        fresh = NewCredential("fresh", "p2", "h")
        await key_changes.rotate(connection, key.id, fresh, overlap_s=0, now=WHEN, by=BY)
    await carried
    async with engine.connect() as connection:
        held = (await keys.get(connection, key.id)).credentials
    assert {each.digest: each.expires_at for each in held} == {old: WHEN, "carried": WHEN, "fresh": None}
