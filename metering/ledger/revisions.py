"""Which revisions of keys are in force: what is to be projected into Redis, and what has been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import keys, tables
from policies.record import KeyRecord


async def records(connection: AsyncConnection, *, after: str = "", limit: int = 1000) -> list[KeyRecord]:
    """Return records in the order of their ids, those behind the id `after`."""
    found = await keys.read(connection, tables.keys.c.id > after, limit=limit, by_id=True)
    return [keys.record_of(key) for key in found]


async def unprojected(connection: AsyncConnection, *, limit: int = 1000) -> list[KeyRecord]:
    """Return records whose newest revision has not been projected, in the order of their ids."""
    table = tables.keys
    found = await keys.read(
        connection, table.c.projected_revision < table.c.revision, limit=limit, by_id=True
    )
    return [keys.record_of(key) for key in found]


async def mark_projected(connection: AsyncConnection, projected: Sequence[KeyRecord]) -> None:
    """Note which revisions the projection holds."""
    if not projected:
        return
    given = _revisions([record.key_id for record in projected], [record.revision for record in projected])
    table = tables.keys
    await keys.lock_keys(connection, table.c.id.in_(sa.select(given.c.id)))
    await connection.execute(
        sa.update(table)
        .where(table.c.id == given.c.id, table.c.projected_revision < given.c.revision)
        .values(projected_revision=given.c.revision)
    )


async def overtake(connection: AsyncConnection, in_force: Mapping[str, int]) -> None:
    """Give keys a revision beyond the one in force, where that is newer than theirs: theirs is to win."""
    if not in_force:
        return
    given = _revisions(list(in_force), list(in_force.values()))
    table = tables.keys
    await keys.lock_keys(connection, table.c.id.in_(sa.select(given.c.id)))
    await connection.execute(
        sa.update(table)
        .where(table.c.id == given.c.id, table.c.revision < given.c.revision)
        .values(revision=given.c.revision + 1)
    )


def _revisions(ids: list[str], revisions: list[int]) -> sa.TableValuedAlias:
    return (
        sa.func.unnest(
            sa.bindparam("ids", ids, sa.ARRAY(sa.Text)),
            sa.bindparam("revisions", revisions, sa.ARRAY(sa.BigInteger)),
        )
        .table_valued(sa.column("id", sa.Text), sa.column("revision", sa.BigInteger))
        .render_derived(name="given")
    )
