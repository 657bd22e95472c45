"""Which pepper is still needed for what: digests of keys and tokens, and secrets sealed under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, key_changes, keys, tables
from metering.ledger.audit import Author, Change
from metering.ledger.credentials import Credential

RESEALED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Need:
    """What would be lost with a pepper.

    `keys` are texts that still open something and are known under it alone, `carried` those known under a
    newer one too. `tokens` are those that are not over; `secrets` are sealed signing and webhook secrets.
    """

    pepper_id: str | None  # None: of tokens from before their pepper was written down
    keys: int = 0
    carried: int = 0
    tokens: int = 0
    secrets: int = 0


def waiting(pepper_id: str, now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a credential still opens something and is known under this pepper alone."""
    held = tables.credentials
    return sa.and_(held.c.pepper_id == pepper_id, held.c.carried_to.is_(None), _lives(now))


async def needs(connection: AsyncConnection, now: datetime) -> list[Need]:
    """Return what each pepper is needed for, in the order of their ids."""
    found: dict[str | None, dict[str, int]] = {}
    held, owner, given = tables.credentials, tables.keys, tables.tokens
    kind = sa.case((held.c.carried_to.is_(None), "keys"), else_="carried")
    credentials = (
        sa.select(held.c.pepper_id, kind.label("kind"), sa.func.count().label("n"))
        .join(owner, owner.c.id == held.c.key_id)
        .where(_lives(now), _unended(now))
        .group_by(held.c.pepper_id, kind)
    )
    tokens = (
        sa.select(given.c.pepper_id, sa.literal("tokens").label("kind"), sa.func.count().label("n"))
        .where(given.c.revoked_at.is_(None), _after(given.c.expires_at, now))
        .group_by(given.c.pepper_id)
    )
    queries = [credentials, tokens]
    for sealed in (owner.c.signing_secret, tables.webhooks.c.secret):
        pepper_id = sa.func.split_part(sealed, ":", 1)
        queries.append(
            sa.select(
                pepper_id.label("pepper_id"), sa.literal("secrets").label("kind"), sa.func.count().label("n")
            )
            .where(sealed.is_not(None))
            .group_by(pepper_id)
        )
    for query in queries:
        for row in await connection.execute(query):
            counts = found.setdefault(row.pepper_id, {})
            counts[row.kind] = counts.get(row.kind, 0) + row.n
    return [Need(name, **found[name]) for name in sorted(found, key=lambda name: name or "")]


async def carry(
    connection: AsyncConnection, old: str, new: str, pepper_id: str, *, now: datetime, by: Author
) -> str | None:
    """Let a text be known under a newer pepper beside its old one; returns its key's id.

    None when there is no such credential, or it was carried over before. The old digest stays: a worker that
    knew the text by it goes on doing so.
    """
    held = tables.credentials
    # The key before its credentials, as whoever changes a key has it: two orders would block each other.
    owner = sa.select(held.c.key_id).where(held.c.digest == old).scalar_subquery()
    await keys.lock_keys(connection, tables.keys.c.id == owner)
    row = (
        await connection.execute(sa.select(held).where(held.c.digest == old).with_for_update())
    ).one_or_none()
    if row is None or row.carried_to is not None or row.pepper_id == pepper_id:
        return None
    credential = Credential(**row._mapping)
    taken = sa.select(held.c.digest).where(held.c.digest == new)
    if (await connection.execute(taken)).one_or_none() is not None:
        return None
    fresh = {**row._mapping, "digest": new, "pepper_id": pepper_id, "carried_to": None}
    await connection.execute(sa.insert(held).values(fresh))
    await connection.execute(sa.update(held).where(held.c.digest == old).values(carried_to=new))
    await key_changes.touch(connection, credential.key_id)
    change = Change(
        "key.carry",
        "key",
        credential.key_id,
        {"hint": credential.hint, "pepper": credential.pepper_id},
        {"hint": credential.hint, "pepper": pepper_id},
    )
    await audit.write(connection, [change], now=now, by=by)
    return credential.key_id


async def reseal(
    connection: AsyncConnection,
    pepper_id: str,
    again: Callable[[str], str],
    *,
    now: datetime,
    by: Author,
) -> int:
    """Seal up to `RESEALED_AT_ONCE` secrets anew that stand under other peppers, and return how many.

    `again` opens a secret and seals it under the pepper; what it raises is raised.
    """
    done = 0
    for table, column, noun in (
        (tables.keys, tables.keys.c.signing_secret, "key"),
        (tables.webhooks, tables.webhooks.c.secret, "webhook"),
    ):
        query = (
            sa.select(table.c.id, column.label("sealed"))
            .where(column.is_not(None), sa.func.split_part(column, ":", 1) != pepper_id)
            .order_by(table.c.id)
            .limit(RESEALED_AT_ONCE - done)
            .with_for_update()
        )
        changes = []
        for row in (await connection.execute(query)).all():
            fresh = {column.name: again(row.sealed)}
            if noun == "key":
                fresh["revision"] = table.c.revision + 1  # type: ignore[assignment]
            await connection.execute(sa.update(table).where(table.c.id == row.id).values(fresh))
            before = {"pepper": row.sealed.partition(":")[0]}
            changes.append(Change(f"{noun}.reseal", noun, row.id, before, {"pepper": pepper_id}))
        await audit.write(connection, changes, now=now, by=by)
        done += len(changes)
    return done


def _lives(now: datetime) -> sa.ColumnElement[bool]:
    held = tables.credentials
    return sa.and_(held.c.revoked_at.is_(None), _after(held.c.expires_at, now))


def _unended(now: datetime) -> sa.ColumnElement[bool]:
    ends: Sequence[sa.Column[datetime]] = (tables.keys.c.revoked_at, tables.keys.c.closed_at)
    return sa.and_(*(_after(end, now) for end in (*ends, tables.keys.c.expires_at)))


def _after(end: sa.ColumnElement[datetime], now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(end.is_(None), end > now)
