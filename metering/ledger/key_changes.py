"""Every way in which a key changes.

A change gives the key a new `revision` and is audited; what changes nothing leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, credentials, keys, purchases, tables
from metering.ledger.audit import Author, Change
from metering.ledger.credentials import NewCredential
from metering.ledger.keys import Key
from metering.ledger.rows import NotFoundError

CHANGEABLE = frozenset(
    {
        "site",
        "label",
        "purchased_at",
        "daily_limit",
        "unlimited",
        "window",
        "expires_at",
        "oldest_unpaid_issued_on",
        "default_provider",
        "default_search_method",
        "allow_networks",
        "allow_domains",
        keys.SECRET,
    }
)


async def change(
    connection: AsyncConnection, key_id: str, changes: Mapping[str, object], *, now: datetime, by: Author
) -> Key:
    """Set fields out of `CHANGEABLE`; raises NotFoundError, or KeyError for a field that cannot be set."""
    if unknown := changes.keys() - CHANGEABLE:
        raise KeyError(f"a key's {', '.join(sorted(unknown))} cannot be set")
    if changes.get("purchased_at") is None:
        return await _change(connection, key_id, changes, action="key.change", now=now, by=by)
    account_id = await lock_account(connection, key_id)
    await _change(connection, key_id, changes, action="key.change", now=now, by=by)
    await purchases.note(connection, [account_id], now=now, by=by)
    return await keys.get(connection, key_id)


async def rotate(
    connection: AsyncConnection,
    key_id: str,
    credential: NewCredential,
    *,
    overlap_s: float,
    now: datetime,
    by: Author,
) -> Key:
    """Accept a new credential, and the old ones for `overlap_s` seconds more.

    Raises NotFoundError and CredentialTakenError.
    """
    key = await _locked(connection, key_id)
    await credentials.refuse_taken(connection, [credential])
    ends = now + timedelta(seconds=overlap_s)
    await credentials.end(connection, key_id, ends)
    await credentials.add(connection, [(key_id, credential)], now=now)
    await _bump(connection, key_id, {})
    hints = {"hint": key.credentials[0].hint if key.credentials else None}
    after = {"hint": credential.hint, "old_until": ends}
    await audit.write(connection, [Change("key.rotate", "key", key_id, hints, after)], now=now, by=by)
    return await keys.get(connection, key_id)


async def revoke(connection: AsyncConnection, key_id: str, *, now: datetime, by: Author) -> Key:
    """End a key at once and for good; raises NotFoundError. One that was revoked before keeps its date."""
    key = await _locked(connection, key_id)
    if key.revoked_at is not None and key.revoked_at <= now:
        return key
    return await _change(connection, key_id, {"revoked_at": now}, action="key.revoke", now=now, by=by)


async def suspend(
    connection: AsyncConnection, key_id: str, *, reason: str | None, now: datetime, by: Author
) -> Key:
    """Hold a key until it is resumed; raises NotFoundError. One that is held already keeps its date."""
    key = await _locked(connection, key_id)
    wanted = {"suspended_at": key.suspended_at or now, "suspended_reason": reason}
    return await _change(connection, key_id, wanted, action="key.suspend", now=now, by=by)


async def resume(connection: AsyncConnection, key_id: str, *, now: datetime, by: Author) -> Key:
    """Let go of a key that was held; raises NotFoundError."""
    wanted = {"suspended_at": None, "suspended_reason": None}
    return await _change(connection, key_id, wanted, action="key.resume", now=now, by=by)


async def close(connection: AsyncConnection, key_id: str, *, at: datetime, now: datetime, by: Author) -> Key:
    """End a key's service at an instant, up to which it is billed (contract OT-14); raises NotFoundError."""
    return await _change(connection, key_id, {"closed_at": at}, action="key.close", now=now, by=by)


async def set_oldest_unpaid(
    connection: AsyncConnection,
    wanted: Mapping[str, date | None],
    *,
    moments: Mapping[str, datetime],
    by: Author,
) -> list[str]:
    """Set the day of the oldest unpaid invoice on all keys of accounts, by account; return what changed.

    `moments` says when, by account. The caller holds the accounts' locks, so that no key is being made
    meanwhile.
    """
    given = (
        sa.func.unnest(
            sa.bindparam("accounts", list(wanted), sa.ARRAY(sa.Text)),
            sa.bindparam("days", list(wanted.values()), sa.ARRAY(sa.Date)),
        )
        .table_valued(sa.column("account_id", sa.Text), sa.column("day", sa.Date))
        .render_derived(name="wanted")
    )
    table = tables.keys
    query = (
        sa.select(table.c.id, table.c.account_id, table.c.oldest_unpaid_issued_on, given.c.day)
        .join(given, given.c.account_id == table.c.account_id)
        .where(table.c.oldest_unpaid_issued_on.is_distinct_from(given.c.day))
        .order_by(table.c.id)
        .with_for_update(of=table)
    )
    changed = (await connection.execute(query)).all()
    if not changed:
        return []
    ids = [row.id for row in changed]
    await connection.execute(
        sa.update(table)
        .where(
            table.c.account_id == given.c.account_id,
            table.c.id == sa.any_(sa.bindparam("ids", ids, sa.ARRAY(sa.Text))),
        )
        .values(oldest_unpaid_issued_on=given.c.day, revision=table.c.revision + 1)
    )
    name = "oldest_unpaid_issued_on"
    changes = [
        Change(
            "key.change",
            "key",
            row.id,
            {name: row.oldest_unpaid_issued_on},
            {name: row.day},
            at=moments[row.account_id],
        )
        for row in changed
    ]
    await audit.write(connection, changes, now=max(moments.values()), by=by)
    return ids


async def lock(connection: AsyncConnection, key_id: str) -> None:
    """Hold off other changes of a key; raises NotFoundError."""
    await _locked(connection, key_id)


async def lock_account(connection: AsyncConnection, key_id: str) -> str:
    """Hold off changes of a key's account, and return its id; raises NotFoundError.

    Whoever locks both begins with the account.
    """
    held, accounts = tables.keys, tables.accounts
    of_key = sa.select(held.c.account_id).where(held.c.id == key_id).scalar_subquery()
    query = sa.select(accounts.c.id).where(accounts.c.id == of_key).with_for_update()
    account_id: str | None = (await connection.execute(query)).scalar()
    if account_id is None:
        raise NotFoundError("key", key_id)
    return account_id


async def touch(connection: AsyncConnection, key_id: str) -> None:
    """Give a key a new revision, for a change that is not in its row."""
    await _bump(connection, key_id, {})


async def _locked(connection: AsyncConnection, key_id: str) -> Key:
    query = sa.select(tables.keys.c.id).where(tables.keys.c.id == key_id).with_for_update()
    if (await connection.execute(query)).one_or_none() is None:
        raise NotFoundError("key", key_id)
    return await keys.get(connection, key_id)


async def _change(
    connection: AsyncConnection,
    key_id: str,
    wanted: Mapping[str, object],
    *,
    action: str,
    now: datetime,
    by: Author,
) -> Key:
    before = await _locked(connection, key_id)
    touched = {name: value for name, value in wanted.items() if getattr(before, name) != value}
    if not touched:
        return before
    await _bump(connection, key_id, touched)
    old = keys.shown({name: getattr(before, name) for name in touched})
    await audit.write(connection, [Change(action, "key", key_id, old, keys.shown(touched))], now=now, by=by)
    return await keys.get(connection, key_id)


async def _bump(connection: AsyncConnection, key_id: str, values: Mapping[str, object]) -> None:
    table = tables.keys
    await connection.execute(
        sa.update(table)
        .where(table.c.id == key_id)
        .values(revision=table.c.revision + 1, **keys.stored(values))
    )
