"""The first purchase of an account, which is its first request when no other is on record (contract OT-2)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, tables
from metering.ledger.audit import Author, Change


async def first_of(connection: AsyncConnection, account_ids: Collection[str]) -> dict[str, datetime]:
    """Return when accounts bought their first key; those that bought none are left out."""
    table = tables.keys
    query = (
        sa.select(table.c.account_id, sa.func.min(table.c.purchased_at).label("at"))
        .where(table.c.account_id == sa.any_(_ids(account_ids)), table.c.purchased_at.is_not(None))
        .group_by(table.c.account_id)
    )
    return {row.account_id: row.at for row in await connection.execute(query)}


async def note(
    connection: AsyncConnection, account_ids: Collection[str], *, now: datetime, by: Author
) -> None:
    """Put the first purchase on record as the first request of accounts that bought again and have none.

    Each purchase would begin a time of its own for a free month otherwise. A single one needs no record, and
    its date can still be put right. The caller holds the accounts' locks.
    """
    accounts, held = tables.accounts, tables.keys
    again = (
        sa.select(held.c.account_id)
        .join(accounts, accounts.c.id == held.c.account_id)
        .where(
            held.c.account_id == sa.any_(_ids(account_ids)),
            held.c.purchased_at.is_not(None),
            accounts.c.first_request_at.is_(None),
        )
        .group_by(held.c.account_id)
        .having(sa.func.count() > 1)
    )
    found = sorted((await connection.execute(again)).scalars())
    if not found:
        return
    bought = await first_of(connection, found)
    first = sa.select(sa.func.min(held.c.purchased_at)).where(held.c.account_id == accounts.c.id)
    stamped = sa.update(accounts).where(accounts.c.id == sa.any_(_ids(found)))
    await connection.execute(stamped.values(first_request_at=first.scalar_subquery()))
    # The free months of the other keys hang on it too.
    of_them = held.c.account_id == sa.any_(_ids(found))
    await connection.execute(sa.select(held.c.id).where(of_them).order_by(held.c.id).with_for_update())
    await connection.execute(sa.update(held).where(of_them).values(revision=held.c.revision + 1))
    before: dict[str, object] = {"first_request_at": None}
    changes = [
        Change("account.change", "account", each, before, {"first_request_at": bought[each]})
        for each in found
    ]
    await audit.write(connection, changes, now=now, by=by)


def _ids(ids: Collection[str]) -> sa.BindParameter[Any]:
    return sa.bindparam("ids", list(ids), sa.ARRAY(sa.Text))
