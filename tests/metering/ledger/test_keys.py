"""How keys come to be and are found."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import CredentialTakenError, NotFoundError, accounts, audit, key_changes, keys
from metering.ledger.credentials import NewCredential
from policies.quota import Window
from tests.metering.samples import BY, WHEN, make_key

FRESH = NewCredential("fresh digest", "p2", "efgh")


async def test_key_is_made_with_its_credential(engine: AsyncEngine) -> None:
    """A new key has revision 1, one credential, and an audit row that names neither digest nor secret."""
    key = await make_key(
        engine, daily_limit=5, window=Window.ROLLING_24H, signing_secret="sealed secret", site="a.example"
    )
    assert key.id.startswith("key_")
    assert len(key.id) == 20
    assert (key.revision, key.projected_revision, key.window) == (1, 0, Window.ROLLING_24H)
    (credential,) = key.credentials
    assert (credential.hint, credential.pepper_id, credential.expires_at) == ("wxyz", "p1", None)
    assert "digest" not in repr(key)
    assert "sealed" not in repr(key)
    async with engine.connect() as connection:
        assert await keys.get(connection, key.id) == key
        (entry,) = (await audit.listed(connection, object_id=key.id)).items
    assert (entry.action, entry.actor, entry.request_id) == ("key.create", BY.actor, BY.request_id)
    assert entry.after is not None
    assert entry.after["signing_secret"] == "set"
    assert "digest" not in str(entry)


async def test_key_of_an_unknown_account_is_refused(engine: AsyncEngine) -> None:
    """The error names the account."""
    async with engine.begin() as connection:
        with pytest.raises(NotFoundError) as caught:
            await keys.create(connection, keys.NewKey("acc_none", "K1", FRESH), now=WHEN, by=BY)
    assert (caught.value.noun, caught.value.object_id) == ("account", "acc_none")


async def test_import_makes_all_keys_or_none(engine: AsyncEngine) -> None:
    """A credential in use, or given twice, is named by its place, and nothing of the import stays."""
    key = await make_key(engine)
    digests = ["a", "digest of shop", "b", "a"]
    wanted = [keys.NewKey(key.account_id, "K1", NewCredential(digest, "p1", "h")) for digest in digests]
    with pytest.raises(CredentialTakenError) as caught:
        async with engine.begin() as connection:
            await keys.create_many(connection, wanted, now=WHEN, by=BY)
    assert caught.value.indexes == (1, 3)
    async with engine.begin() as connection:
        made = await keys.create_many(connection, [wanted[0], wanted[2]], now=WHEN, by=BY)
        assert [(await keys.get(connection, each)).credentials[0].digest for each in made] == ["a", "b"]
        assert len((await keys.listed(connection)).items) == 3


async def test_credential_taken_at_the_same_moment_is_refused(engine: AsyncEngine) -> None:
    """Of two imports of one credential at once, one is told that it is taken."""
    key = await make_key(engine)

    async def attempt() -> bool:
        try:
            async with engine.begin() as connection:
                await keys.create(connection, keys.NewKey(key.account_id, "K1", FRESH), now=WHEN, by=BY)
                await asyncio.sleep(0.05)
        except CredentialTakenError:
            return False
        return True

    assert sorted(await asyncio.gather(attempt(), attempt())) == [False, True]


async def test_keys_are_listed_page_by_page(engine: AsyncEngine) -> None:
    """Pages hold every key of one account once, also when all were made at the same moment."""
    key = await make_key(engine)
    await make_key(engine, name="other")
    async with engine.begin() as connection:
        more = [keys.NewKey(key.account_id, "K1", NewCredential(f"d{n}", "p1", "h")) for n in range(6)]
        await keys.create_many(connection, more, now=WHEN, by=BY)
        found: list[str] = []
        cursor = None
        while True:
            page = await keys.listed(connection, account_id=key.account_id, cursor=cursor, limit=3)
            found += [each.id for each in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len(found) == len(set(found)) == 7
        with pytest.raises(ValueError, match="cursor"):
            await keys.listed(connection, cursor="nonsense")


async def test_key_made_during_a_change_of_its_account_knows_it(engine: AsyncEngine) -> None:
    """A first request that is stated while a key is being made reaches that key's record too."""
    key = await make_key(engine)

    async def state() -> None:
        async with engine.begin() as connection:
            await accounts.change(connection, key.account_id, {"first_request_at": WHEN}, now=WHEN, by=BY)

    async with engine.begin() as connection:
        made = await keys.create(connection, keys.NewKey(key.account_id, "K1", FRESH), now=WHEN, by=BY)
        stating = asyncio.ensure_future(state())
        await asyncio.wait({stating}, timeout=0.1)
        assert not stating.done()
    await stating
    async with engine.connect() as connection:
        after = await keys.get(connection, made.id)
    assert (after.revision, after.first_request_at) == (2, WHEN)


async def test_key_is_found_by_its_digests(engine: AsyncEngine) -> None:
    """Every digest a key has or had leads to it."""
    key = await make_key(engine)
    async with engine.begin() as connection:
        await key_changes.rotate(connection, key.id, FRESH, overlap_s=0, now=WHEN, by=BY)
        for digest in ("fresh digest", "digest of shop"):
            found = await keys.find(connection, digest)
            assert found is not None
            assert found.id == key.id
        assert await keys.find(connection, "unknown") is None
