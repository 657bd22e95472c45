"""How tokens come to be and end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import NotFoundError, audit, tokens
from tests.metering.samples import BY, WHEN


async def test_token_is_found_by_its_digest(engine: AsyncEngine) -> None:
    """A token is known by a digest that is told to nobody, and is valid until its end."""
    ends = WHEN + timedelta(days=1)
    async with engine.begin() as connection:
        made = await tokens.create(
            connection, name="ci", role="ops", digest="secret digest", expires_at=ends, now=WHEN, by=BY
        )
        assert await tokens.find(connection, "secret digest") == made
        assert await tokens.find(connection, "another") is None
        assert (await tokens.listed(connection)).items == (made,)
        (entry,) = (await audit.listed(connection, object_id=made.id)).items
    assert (made.created_by, made.role) == (BY.actor, "ops")
    assert [made.valid_at(moment) for moment in (WHEN, ends - timedelta(seconds=1), ends)] == [
        True,
        True,
        False,
    ]
    assert "secret digest" not in str(entry)


async def test_revoked_token_is_valid_no_more(engine: AsyncEngine) -> None:
    """Revoking holds at once, keeps its first date, and is audited once."""
    async with engine.begin() as connection:
        made = await tokens.create(connection, name="ci", role="ops", digest="d", now=WHEN, by=BY)
        await tokens.revoke(connection, made.id, now=WHEN, by=BY)
        again = await tokens.revoke(connection, made.id, now=WHEN + timedelta(days=1), by=BY)
        with pytest.raises(NotFoundError):
            await tokens.revoke(connection, "tok_none", now=WHEN, by=BY)
        entries = (await audit.listed(connection, object_id=made.id)).items
    assert again.revoked_at == WHEN
    assert not again.valid_at(WHEN)
    assert [entry.action for entry in entries] == ["token.revoke", "token.create"]


async def test_tokens_are_listed_page_by_page(engine: AsyncEngine) -> None:
    """Pages hold every token once."""
    async with engine.begin() as connection:
        for number in range(3):
            await tokens.create(
                connection, name=f"t{number}", role="ops", digest=f"d{number}", now=WHEN, by=BY
            )
        first = await tokens.listed(connection, limit=2)
        rest = await tokens.listed(connection, limit=2, cursor=first.next_cursor)
    assert {token.name for token in first.items + rest.items} == {"t0", "t1", "t2"}
