"""Tokens of the control API, known by the digest of their text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, tables
from metering.ledger.audit import Author, Change
from metering.ledger.rows import NotFoundError, Page, new_id, oldest_first, page_of


@dataclass(frozen=True, slots=True)
class Token:
    """Who may use the control API, in which role, until when."""

    id: str
    name: str
    role: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    pepper_id: str | None  # under which the text is known; None for a token of before it was written down

    def valid_at(self, now: datetime) -> bool:
        """Say whether the token opens anything at `now`."""
        return all(end is None or now < end for end in (self.expires_at, self.revoked_at))


_COLUMNS = [column for column in tables.tokens.c if column.name != "digest"]


async def create(
    connection: AsyncConnection,
    *,
    name: str,
    role: str,
    digest: str,
    pepper_id: str | None = None,
    expires_at: datetime | None = None,
    now: datetime,
    by: Author,
) -> Token:
    """Make a token of which only the digest is kept."""
    token = Token(new_id("tok"), name, role, now, by.actor, expires_at, None, pepper_id)
    await connection.execute(
        sa.insert(tables.tokens).values(
            id=token.id,
            name=name,
            role=role,
            digest=digest,
            pepper_id=pepper_id,
            created_at=now,
            created_by=by.actor,
            expires_at=expires_at,
        )
    )
    after = {"name": name, "role": role, "expires_at": expires_at}
    await audit.write(connection, [Change("token.create", "token", token.id, None, after)], now=now, by=by)
    return token


async def find(connection: AsyncConnection, digest: str) -> Token | None:
    """Return the token with this digest, valid or not."""
    query = sa.select(*_COLUMNS).where(tables.tokens.c.digest == digest)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Token(**row._mapping)


async def listed(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 100) -> Page[Token]:
    """Return tokens, the oldest first; raises ValueError for a wrong cursor or limit."""
    table = tables.tokens
    query = sa.select(*_COLUMNS)
    query = oldest_first(query, table.c.created_at, table.c.id, cursor=cursor, limit=limit)
    found = [Token(**row._mapping) for row in await connection.execute(query)]
    return page_of(found, limit, lambda token: (token.created_at, token.id))


async def carry(
    connection: AsyncConnection, token_id: str, digest: str, pepper_id: str, *, now: datetime, by: Author
) -> None:
    """Let a token be known by its digest under another pepper in place of the one before."""
    table = tables.tokens
    row = (
        await connection.execute(sa.select(table.c.pepper_id).where(table.c.id == token_id).with_for_update())
    ).one_or_none()
    if row is None:
        raise NotFoundError("token", token_id)
    await connection.execute(
        sa.update(table).where(table.c.id == token_id).values(digest=digest, pepper_id=pepper_id)
    )
    written = Change("token.carry", "token", token_id, {"pepper": row.pepper_id}, {"pepper": pepper_id})
    await audit.write(connection, [written], now=now, by=by)


async def revoke(connection: AsyncConnection, token_id: str, *, now: datetime, by: Author) -> Token:
    """End a token at once; raises NotFoundError. One that was revoked before keeps its date."""
    table = tables.tokens
    query = sa.select(*_COLUMNS).where(table.c.id == token_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError("token", token_id)
    token = Token(**row._mapping)
    if token.revoked_at is not None:
        return token
    updated = sa.update(table).where(table.c.id == token_id).values(revoked_at=now).returning(*_COLUMNS)
    token = Token(**(await connection.execute(updated)).one()._mapping)
    written = Change("token.revoke", "token", token_id, {"revoked_at": None}, {"revoked_at": now})
    await audit.write(connection, [written], now=now, by=by)
    return token
