"""Credentials: the texts that are accepted as keys, each known by its digest under one pepper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import bulk, tables
from metering.ledger.rows import CredentialTakenError


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A credential that is to be accepted; `pepper_id` says which pepper its digest was made with.

    `others` are digests of the same text under the other peppers, for a text that somebody may have brought
    before.
    """

    digest: str
    pepper_id: str
    hint: str
    others: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """A text that is, was or will be no longer accepted as a key.

    `carried_to` is the digest of the same text under a newer pepper, once that is known.
    """

    digest: str = field(repr=False)
    key_id: str
    pepper_id: str
    hint: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    carried_to: str | None = field(default=None, repr=False)


async def of_keys(connection: AsyncConnection, key_ids: Sequence[str]) -> dict[str, list[Credential]]:
    """Return the credentials of keys by key, the newest first."""
    by_key: dict[str, list[Credential]] = {key_id: [] for key_id in key_ids}
    held = tables.credentials
    wanted = (
        sa.select(*(held.c[each.name] for each in fields(Credential)))
        .where(held.c.key_id == sa.any_(sa.bindparam("ids", list(by_key), sa.ARRAY(sa.Text))))
        .order_by(held.c.created_at.desc(), held.c.digest)
    )
    for row in await connection.execute(wanted):
        credential = Credential(*row)
        by_key[credential.key_id].append(credential)
    return by_key


async def add(
    connection: AsyncConnection, new: Sequence[tuple[str, NewCredential]], *, now: datetime
) -> None:
    """Accept credentials as the keys with these ids, all or none; raises CredentialTakenError."""
    rows = [
        {
            "digest": credential.digest,
            "key_id": key_id,
            "pepper_id": credential.pepper_id,
            "hint": credential.hint,
            "created_at": now,
        }
        for key_id, credential in new
    ]
    # One that another transaction took since the check must not raise half-way through the batch.
    statement, values = bulk.inserting(tables.credentials, rows)
    fresh = statement.on_conflict_do_nothing().returning(tables.credentials.c.digest)
    done = set((await connection.execute(fresh, values)).scalars())
    if missed := [index for index, row in enumerate(rows) if row["digest"] not in done]:
        raise CredentialTakenError(missed)


async def end(connection: AsyncConnection, key_id: str, at: datetime) -> None:
    """Let all credentials of a key end at `at`, those that end earlier left as they are."""
    table = tables.credentials
    await connection.execute(
        sa.update(table)
        .where(table.c.key_id == key_id)
        .values(expires_at=sa.func.least(sa.func.coalesce(table.c.expires_at, at), at))
    )


async def refuse_taken(connection: AsyncConnection, new: Sequence[NewCredential]) -> None:
    """Raise CredentialTakenError when one of the texts is known, or stands twice in the list."""
    held = tables.credentials
    digests = [digest for each in new for digest in (each.digest, *each.others)]
    query = sa.select(held.c.digest).where(
        held.c.digest == sa.any_(sa.bindparam("digests", digests, sa.ARRAY(sa.Text)))
    )
    seen = {row.digest for row in await connection.execute(query)}
    taken = []
    for index, each in enumerate(new):
        if not seen.isdisjoint((each.digest, *each.others)):
            taken.append(index)
        seen.add(each.digest)
    if taken:
        raise CredentialTakenError(taken)
