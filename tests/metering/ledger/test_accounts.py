"""How accounts come to be and change."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import NotFoundError, accounts, audit, key_changes, keys
from metering.ledger.credentials import NewCredential
from tests.metering.samples import BY, WHEN, make_key


async def test_account_is_made_and_found(engine: AsyncEngine) -> None:
    """A new account is what it was made of, and is audited."""
    async with engine.begin() as connection:
        made = await accounts.create(
            connection, name="Shop", currency="USD", main_domain="shop.example", now=WHEN, by=BY
        )
        assert await accounts.get(connection, made.id) == made
        (entry,) = (await audit.listed(connection, object_id=made.id)).items
        with pytest.raises(NotFoundError):
            await accounts.get(connection, "acc_none")
    assert (made.name, made.main_domain, made.created_at, made.closed_at) == (
        "Shop",
        "shop.example",
        WHEN,
        None,
    )
    assert (entry.action, entry.actor) == ("account.create", BY.actor)


async def test_first_request_gives_all_keys_a_new_revision(engine: AsyncEngine) -> None:
    """The free month hangs on the first request, so every key is projected again; a name changes none."""
    key = await make_key(engine)
    other = await make_key(engine, name="other")
    async with engine.begin() as connection:
        for changes, revision in (
            ({"name": "New"}, 1),
            ({"first_request_at": WHEN}, 2),
            ({"first_request_at": WHEN}, 2),
        ):
            await accounts.change(connection, key.account_id, changes, now=WHEN, by=BY)
            assert (await keys.get(connection, key.id)).revision == revision
        assert (await keys.get(connection, other.id)).revision == 1
        entries = (await audit.listed(connection, object_id=key.account_id)).items
    assert [entry.after for entry in entries[:2]] == [
        {"first_request_at": "2026-11-21T12:00:00+00:00"},
        {"name": "New"},
    ]


async def test_the_first_purchase_is_the_first_request_of_who_buys_again(engine: AsyncEngine) -> None:
    """The second key puts it on record, whichever was bought first; what was stated before stays."""
    key = await make_key(engine, purchased_at=WHEN)
    stated = await make_key(engine, name="stated", purchased_at=WHEN)
    earlier = WHEN - timedelta(days=9)
    async with engine.begin() as connection:
        assert (await accounts.get(connection, key.account_id)).first_request_at is None
        await accounts.change(connection, stated.account_id, {"first_request_at": WHEN}, now=WHEN, by=BY)
        for number, account_id in enumerate((key.account_id, stated.account_id)):
            credential = NewCredential(f"second {number}", "p1", "h")
            new = keys.NewKey(account_id, "K1", credential, purchased_at=earlier)
            await keys.create(connection, new, now=WHEN, by=BY)
        assert (await accounts.get(connection, key.account_id)).first_request_at == earlier
        assert (await keys.get(connection, key.id)).revision == 2
        assert (await accounts.get(connection, stated.account_id)).first_request_at == WHEN
        (entry, *_) = (await audit.listed(connection, object_id=key.account_id)).items
    assert (entry.action, entry.before, entry.after) == (
        "account.change",
        {"first_request_at": None},
        {"first_request_at": earlier.isoformat()},
    )


async def test_a_purchase_that_is_noted_later_counts_as_well(engine: AsyncEngine) -> None:
    """A key that was taken over and is bought afterwards, beside another one, tells the first request."""
    key = await make_key(engine, purchased_at=WHEN)
    async with engine.begin() as connection:
        new = keys.NewKey(key.account_id, "K1", NewCredential("second", "p1", "h"))
        second = await keys.create(connection, new, now=WHEN, by=BY)
        assert (await accounts.get(connection, key.account_id)).first_request_at is None
        bought = {"purchased_at": WHEN + timedelta(days=8)}
        changed = await key_changes.change(connection, second.id, bought, now=WHEN, by=BY)
        assert changed.first_request_at == WHEN
        with pytest.raises(NotFoundError):
            await key_changes.change(connection, "key_none", bought, now=WHEN, by=BY)


async def test_keys_that_are_bought_at_once_all_count(engine: AsyncEngine) -> None:
    """Purchases for one account wait for each other, so none of them passes for the only one."""
    key = await make_key(engine)

    async def buy(number: int) -> None:
        async with engine.begin() as connection:
            credential = NewCredential(f"at once {number}", "p1", "h")
            at = WHEN + timedelta(days=number)
            new = keys.NewKey(key.account_id, "K1", credential, purchased_at=at)
            await keys.create(connection, new, now=WHEN, by=BY)

    await asyncio.gather(*(buy(number) for number in range(2)))
    async with engine.connect() as connection:
        assert (await accounts.get(connection, key.account_id)).first_request_at == WHEN


async def test_only_changeable_fields_are_set(engine: AsyncEngine) -> None:
    """An id is for good, and an unknown account is an error."""
    key = await make_key(engine)
    async with engine.begin() as connection:
        with pytest.raises(KeyError, match="id"):
            await accounts.change(connection, key.account_id, {"id": "acc_1"}, now=WHEN, by=BY)
        with pytest.raises(NotFoundError):
            await accounts.change(connection, "acc_none", {"name": "x"}, now=WHEN, by=BY)


async def test_accounts_are_listed_page_by_page(engine: AsyncEngine) -> None:
    """Pages hold every account once, also when all were made at the same moment."""
    async with engine.begin() as connection:
        for number in range(5):
            await accounts.create(connection, name=f"a{number}", currency="USD", now=WHEN, by=BY)
        first = await accounts.listed(connection, limit=3)
        rest = await accounts.listed(connection, limit=3, cursor=first.next_cursor)
    assert rest.next_cursor is None
    assert {account.name for account in first.items + rest.items} == {f"a{number}" for number in range(5)}


async def test_changes_at_once_are_audited_as_they_followed_each_other(engine: AsyncEngine) -> None:
    """Changes of one account wait for each other: what one found is what another left."""
    key = await make_key(engine)

    async def rename(name: str) -> None:
        async with engine.begin() as connection:
            await accounts.change(connection, key.account_id, {"name": name}, now=WHEN, by=BY)

    await asyncio.gather(*[rename(f"name {number}") for number in range(4)])
    async with engine.connect() as connection:
        entries = (await audit.listed(connection, object_id=key.account_id)).items[:4]
    names = (
        [(entry.before or {})["name"] for entry in entries],
        [(entry.after or {})["name"] for entry in entries],
    )
    assert names[0][:3] == names[1][1:]


async def test_closing_an_account_ends_its_keys(engine: AsyncEngine) -> None:
    """Keys end with their account unless they ended before, and one that is made later has ended too."""
    key = await make_key(engine)
    earlier, later = WHEN + timedelta(hours=1), WHEN + timedelta(hours=2)
    async with engine.begin() as connection:
        new = [keys.NewKey(key.account_id, "K1", NewCredential(f"d{n}", "p1", "h")) for n in range(3)]
        ended, open_ended, late = new
        first, second = await keys.create_many(connection, [ended, open_ended], now=WHEN, by=BY)
        await key_changes.close(connection, first, at=earlier, now=WHEN, by=BY)
        account = await accounts.close(connection, key.account_id, at=later, now=WHEN, by=BY)
        assert account.closed_at == later
        third = await keys.create(connection, late, now=WHEN, by=BY)
        found = {each.id: each for each in (await keys.listed(connection, account_id=account.id)).items}
    assert {each: found[each].closed_at for each in (key.id, first, second, third.id)} == {
        key.id: later,
        first: earlier,
        second: later,
        third.id: later,
    }
    assert found[second].revision == 2


async def test_an_end_that_is_put_off_is_put_off_for_the_keys(engine: AsyncEngine) -> None:
    """Keys that were to end with their account follow it, to a later instant and to an earlier one."""
    key = await make_key(engine)
    async with engine.begin() as connection:
        new = [keys.NewKey(key.account_id, "K1", NewCredential("d0", "p1", "h"))]
        (alone,) = await keys.create_many(connection, new, now=WHEN, by=BY)
        before = WHEN + timedelta(hours=1)
        await key_changes.close(connection, alone, at=before, now=WHEN, by=BY)
        for hours in (5, 9, 3):
            at = WHEN + timedelta(hours=hours)
            await accounts.close(connection, key.account_id, at=at, now=WHEN, by=BY)
            assert (await keys.get(connection, key.id)).closed_at == at
            assert (await keys.get(connection, alone)).closed_at == before
