"""Keys with their credentials, every way in which they change, and the record that a gateway decides on.

A key is what is counted and billed; a credential is a text accepted as that key, known by its digest. Each
change gives the key a new `revision`; while `projected_revision` is behind it, the projection in Redis is
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, credentials, tables
from metering.ledger.audit import Author, Change
from metering.ledger.credentials import Credential, NewCredential
from metering.ledger.rows import (
    NotFoundError,
    Page,
    check_limit,
    new_id,
    page_of,
    read_cursor,
)
from policies.quota import Window
from policies.record import KeyRecord

SECRET = "signing_secret"  # noqa: S105 - the name of a column
LISTS = frozenset({"allow_networks", "allow_domains"})
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
        SECRET,
    }
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is to be made. `signing_secret` is sealed already."""

    account_id: str
    plan: str
    credential: NewCredential
    site: str | None = None
    label: str | None = None
    purchased_at: datetime | None = None
    daily_limit: int | None = None
    unlimited: bool = False
    window: Window | None = None
    expires_at: datetime | None = None
    default_provider: str | None = None
    default_search_method: str | None = None
    signing_secret: str | None = field(default=None, repr=False)
    allow_networks: tuple[str, ...] = ()
    allow_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the ledger with its credentials, the newest first."""

    id: str
    account_id: str
    plan: str
    site: str | None
    label: str | None
    created_at: datetime
    purchased_at: datetime | None
    daily_limit: int | None
    unlimited: bool
    window: Window | None
    expires_at: datetime | None
    revoked_at: datetime | None
    suspended_at: datetime | None
    suspended_reason: str | None
    closed_at: datetime | None
    oldest_unpaid_issued_on: date | None
    default_provider: str | None
    default_search_method: str | None
    signing_secret: str | None = field(repr=False)
    allow_networks: tuple[str, ...]
    allow_domains: tuple[str, ...]
    revision: int
    projected_revision: int
    first_request_at: datetime | None  # the account's
    credentials: tuple[Credential, ...]


_NEW_FIELDS = [each.name for each in fields(NewKey) if each.name not in {"credential", "account_id"}]


async def create(connection: AsyncConnection, new: NewKey, *, now: datetime, by: Author) -> Key:
    """Make a key; raises NotFoundError for its account and CredentialTakenError."""
    return (await create_many(connection, [new], now=now, by=by, action="key.create"))[0]


async def create_many(
    connection: AsyncConnection,
    new: Sequence[NewKey],
    *,
    now: datetime,
    by: Author,
    action: str = "key.import",
) -> list[Key]:
    """Make keys, all or none, in a few statements; raises NotFoundError and CredentialTakenError."""
    ends = await _lock_accounts(connection, {key.account_id for key in new})
    await credentials.refuse_taken(connection, [key.credential.digest for key in new])
    unpaid = await _oldest_unpaid(connection, {key.account_id for key in new})
    ids = [new_id("key") for _ in new]
    rows, changes = [], []
    for key_id, key in zip(ids, new, strict=True):
        values = {name: getattr(key, name) for name in _NEW_FIELDS} | {"account_id": key.account_id}
        started = {
            "oldest_unpaid_issued_on": unpaid.get(key.account_id),
            "closed_at": ends[key.account_id],
            "created_at": now,
        }
        rows.append({"id": key_id, "revision": 1, "projected_revision": 0, **started, **_stored(values)})
        after = {name: value for name, value in _shown(values).items() if value is not None and value != ()}
        changes.append(Change(action, "key", key_id, None, after | {"hint": key.credential.hint}))
    if rows:
        await connection.execute(sa.insert(tables.keys), rows)
        await credentials.add(
            connection, [(key_id, key.credential) for key_id, key in zip(ids, new, strict=True)], now=now
        )
    await audit.write(connection, changes, now=now, by=by)
    made = {key.id: key for key in await read(connection, tables.keys.c.id.in_(ids))}
    return [made[key_id] for key_id in ids]


async def get(connection: AsyncConnection, key_id: str) -> Key:
    """Return a key; raises NotFoundError."""
    found = await read(connection, tables.keys.c.id == key_id)
    if not found:
        raise NotFoundError("key", key_id)
    return found[0]


async def by_id(connection: AsyncConnection, key_ids: Sequence[str]) -> list[Key]:
    """Return keys by their ids, the oldest first; one that does not exist is left out."""
    wanted = sa.bindparam("wanted", list(key_ids), sa.ARRAY(sa.Text))
    return await read(connection, tables.keys.c.id == sa.any_(wanted))


async def find(connection: AsyncConnection, digest: str) -> Key | None:
    """Return the key that a credential's digest belongs to, or belonged to."""
    held = tables.credentials
    owner = sa.select(held.c.key_id).where(held.c.digest == digest).scalar_subquery()
    found = await read(connection, tables.keys.c.id == owner)
    return found[0] if found else None


async def listed(
    connection: AsyncConnection,
    *,
    account_id: str | None = None,
    having: sa.ColumnElement[bool] | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Key]:
    """Return keys, the oldest first; raises ValueError for a wrong cursor or limit.

    `having` is a condition on credentials, of which a key must have one that meets it.
    """
    table = tables.keys
    conditions: list[sa.ColumnElement[bool]] = []
    if having is not None:
        conditions.append(table.c.id.in_(sa.select(tables.credentials.c.key_id).where(having)))
    if account_id is not None:
        conditions.append(table.c.account_id == account_id)
    if cursor is not None:
        after = read_cursor(cursor, datetime, str)
        conditions.append(sa.tuple_(table.c.created_at, table.c.id) > sa.tuple_(*after))
    found = await read(connection, *conditions, limit=check_limit(limit) + 1)
    return page_of(found, limit, lambda key: (key.created_at, key.id))


async def change(
    connection: AsyncConnection, key_id: str, changes: Mapping[str, object], *, now: datetime, by: Author
) -> Key:
    """Set fields out of `CHANGEABLE`; raises NotFoundError, or KeyError for a field that cannot be set."""
    if unknown := changes.keys() - CHANGEABLE:
        raise KeyError(f"a key's {', '.join(sorted(unknown))} cannot be set")
    return await _change(connection, key_id, changes, action="key.change", now=now, by=by)


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
    await credentials.refuse_taken(connection, [credential.digest])
    ends = now + timedelta(seconds=overlap_s)
    await credentials.end(connection, key_id, ends)
    await credentials.add(connection, [(key_id, credential)], now=now)
    await _bump(connection, key_id, {})
    hints = {"hint": key.credentials[0].hint if key.credentials else None}
    after = {"hint": credential.hint, "old_until": ends}
    await audit.write(connection, [Change("key.rotate", "key", key_id, hints, after)], now=now, by=by)
    return await get(connection, key_id)


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


def record_of(key: Key) -> KeyRecord:
    """Return what a gateway is to know of a key, without credentials that were revoked by themselves."""
    return KeyRecord(
        key_id=key.id,
        account_id=key.account_id,
        plan=key.plan,
        revision=key.revision,
        created_at=key.created_at.timestamp(),
        credentials={
            credential.digest: _epoch(credential.expires_at)
            for credential in key.credentials
            if credential.revoked_at is None
        },
        purchased_at=_epoch(key.purchased_at),
        first_request_at=_epoch(key.first_request_at),
        daily_limit=key.daily_limit,
        unlimited=key.unlimited,
        window=key.window,
        expires_at=_epoch(key.expires_at),
        revoked_at=_epoch(key.revoked_at),
        suspended=key.suspended_at is not None,
        closed_at=_epoch(key.closed_at),
        oldest_unpaid_issued_on=key.oldest_unpaid_issued_on,
        default_provider=key.default_provider,
        default_search_method=key.default_search_method,
        signing_secret=key.signing_secret,
        allow_networks=key.allow_networks,
        allow_domains=key.allow_domains,
    )


async def lock_keys(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
    """Lock keys in the order of their ids, so that changes of many keys at once do not block each other."""
    query = sa.select(tables.keys.c.id).where(which).order_by(tables.keys.c.id).with_for_update()
    await connection.execute(query)


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


async def read(
    connection: AsyncConnection,
    *conditions: sa.ColumnElement[bool],
    limit: int | None = None,
    by_id: bool = False,
) -> list[Key]:
    """Return the keys that meet all conditions, the oldest first or in the order of their ids."""
    # Keys first, credentials second: what changes in between is newer than the revision, whose successor is
    # projected in its turn. The other way round an older credential would stay under the newer revision.
    table = tables.keys
    query = (
        sa.select(table, tables.accounts.c.first_request_at)
        .join(tables.accounts, tables.accounts.c.id == table.c.account_id)
        .where(*conditions)
        .order_by(*([table.c.id] if by_id else [table.c.created_at, table.c.id]))
        .limit(limit)
    )
    rows = (await connection.execute(query)).all()
    by_key = await credentials.of_keys(connection, [row.id for row in rows])
    return [_key(row._mapping, by_key[row.id]) for row in rows]


def _key(row: Mapping[Any, Any], held: Sequence[Credential]) -> Key:
    columns = dict(row)
    for name in LISTS:
        columns[name] = tuple(columns[name] or ())
    columns["window"] = None if columns["window"] is None else Window(columns["window"])
    return Key(**columns, credentials=tuple(held))


async def _locked(connection: AsyncConnection, key_id: str) -> Key:
    query = sa.select(tables.keys.c.id).where(tables.keys.c.id == key_id).with_for_update()
    if (await connection.execute(query)).one_or_none() is None:
        raise NotFoundError("key", key_id)
    return await get(connection, key_id)


async def _change(
    connection: AsyncConnection,
    key_id: str,
    wanted: Mapping[str, object],
    *,
    action: str,
    now: datetime,
    by: Author,
) -> Key:
    """What changes nothing leaves no trace: no revision, no audit row."""
    before = await _locked(connection, key_id)
    touched = {name: value for name, value in wanted.items() if getattr(before, name) != value}
    if not touched:
        return before
    await _bump(connection, key_id, touched)
    old = _shown({name: getattr(before, name) for name in touched})
    await audit.write(connection, [Change(action, "key", key_id, old, _shown(touched))], now=now, by=by)
    return await get(connection, key_id)


async def touch(connection: AsyncConnection, key_id: str) -> None:
    """Give a key a new revision, for a change that is not in its row."""
    await _bump(connection, key_id, {})


async def _bump(connection: AsyncConnection, key_id: str, values: Mapping[str, object]) -> None:
    table = tables.keys
    await connection.execute(
        sa.update(table).where(table.c.id == key_id).values(revision=table.c.revision + 1, **_stored(values))
    )


async def _lock_accounts(connection: AsyncConnection, account_ids: set[str]) -> dict[str, datetime | None]:
    """Hold off changes of the accounts, which would miss these keys; return when each one's service ends."""
    table = tables.accounts
    query = (
        sa.select(table.c.id, table.c.closed_at)
        .where(table.c.id.in_(account_ids))
        .order_by(table.c.id)
        .with_for_update(read=True)
    )
    found = {row.id: row.closed_at for row in await connection.execute(query)}
    if missing := account_ids - found.keys():
        raise NotFoundError("account", min(missing))
    return found


async def _oldest_unpaid(connection: AsyncConnection, account_ids: set[str]) -> dict[str, date | None]:
    """Return the day that the accounts' other keys carry: a further key is no way around a debt."""
    table = tables.keys
    query = (
        sa.select(table.c.account_id, sa.func.min(table.c.oldest_unpaid_issued_on).label("day"))
        .where(table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))))
        .group_by(table.c.account_id)
    )
    return {row.account_id: row.day for row in await connection.execute(query)}


def _stored(values: Mapping[str, object]) -> dict[str, object]:
    """What a row holds: an empty list is none."""
    return {name: (value or None) if name in LISTS else value for name, value in values.items()}


def _shown(values: Mapping[str, object]) -> dict[str, object]:
    """What the audit log may hold of a key's fields: that a secret is set, never the secret."""
    return {
        name: ("set" if value is not None else None) if name == SECRET else value
        for name, value in values.items()
    }


def _epoch(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()
