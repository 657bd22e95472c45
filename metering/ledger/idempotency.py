"""Answers kept for requests that carry an idempotency key, so that a repeated one has no second effect."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import tables


class DifferentRequestError(ValueError):
    """The idempotency key was used for another request before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first request was told."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose key it is, and for what: the same key of another actor or route is another one."""

    key: str
    actor: str
    route: str


async def claim(
    connection: AsyncConnection,
    scope: Scope,
    request_hash: str,
    *,
    earlier: Collection[str] = (),
    now: datetime,
) -> Answer | None:
    """Return the answer that was given before, or None when the caller is the first and is to do the work.

    The claim lives in the caller's transaction: whoever comes second waits until the first commits, and
    becomes the first if that one rolled back. `earlier` are hashes that the same request may have been
    claimed under before. Raises DifferentRequestError.
    """
    table = tables.idempotency
    values = {"key": scope.key, "actor": scope.actor, "route": scope.route}
    fresh = insert(table).values(**values, request_hash=request_hash, created_at=now).on_conflict_do_nothing()
    if (await connection.execute(fresh.returning(table.c.key))).one_or_none() is not None:
        return None
    query = sa.select(table.c.request_hash, table.c.status, table.c.body).where(_is(scope))
    row = (await connection.execute(query)).one()
    if row.request_hash != request_hash and row.request_hash not in earlier:
        raise DifferentRequestError("this idempotency key was used for another request")
    return Answer(row.status, row.body)


async def keep(connection: AsyncConnection, scope: Scope, answer: Answer) -> None:
    """Keep the answer, in the transaction of the claim. A key's text does not belong in it."""
    await connection.execute(
        sa.update(tables.idempotency).where(_is(scope)).values(status=answer.status, body=answer.body)
    )


async def forget(connection: AsyncConnection, before: datetime) -> int:
    """Drop the answers to requests made before an instant; returns how many."""
    result = await connection.execute(
        sa.delete(tables.idempotency).where(tables.idempotency.c.created_at < before)
    )
    return result.rowcount


def _is(scope: Scope) -> sa.ColumnElement[bool]:
    table = tables.idempotency
    return sa.and_(table.c.key == scope.key, table.c.actor == scope.actor, table.c.route == scope.route)
