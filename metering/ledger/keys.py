"""Keys with their credentials: made, found, and as the record that a gateway decides on.

A key is what is counted and billed; a credential is a text accepted as that key, known by its digest. Each
change (`key_changes`) gives the key a new `revision`; while `projected_revision` is behind it, the projection
in Redis is too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, bulk, credentials, purchases, tables
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


_FIELDS = [each.name for each in fields(Key) if each.name != "credentials"]
_ID, _WINDOW, _LISTS = _FIELDS.index("id"), _FIELDS.index("window"), [_FIELDS.index(name) for name in LISTS]
_NEW_FIELDS = [each.name for each in fields(NewKey) if each.name not in {"credential", "account_id"}]


async def create(connection: AsyncConnection, new: NewKey, *, now: datetime, by: Author) -> Key:
    """Make a key; raises NotFoundError for its account and CredentialTakenError."""
    (key_id,) = await create_many(connection, [new], now=now, by=by, action="key.create")
    return await get(connection, key_id)


async def create_many(
    connection: AsyncConnection,
    new: Sequence[NewKey],
    *,
    now: datetime,
    by: Author,
    action: str = "key.import",
) -> list[str]:
    """Make keys, all or none, in a few statements, and return their ids, in the order of `new`.

    Raises NotFoundError and CredentialTakenError.
    """
    buyers = {key.account_id for key in new if key.purchased_at is not None}
    ends = await _lock_accounts(connection, {key.account_id for key in new}, alone=bool(buyers))
    await credentials.refuse_taken(connection, [key.credential for key in new])
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
        rows.append({"id": key_id, "revision": 1, "projected_revision": 0, **started, **stored(values)})
        after = {name: value for name, value in shown(values).items() if value is not None and value != ()}
        changes.append(Change(action, "key", key_id, None, after | {"hint": key.credential.hint}))
    if rows:
        await connection.execute(*bulk.inserting(tables.keys, rows))
        await credentials.add(
            connection, [(key_id, key.credential) for key_id, key in zip(ids, new, strict=True)], now=now
        )
    await audit.write(connection, changes, now=now, by=by)
    if buyers:
        await purchases.note(connection, buyers, now=now, by=by)
    return ids


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
    columns = [table.c[name] if name in table.c else tables.accounts.c[name] for name in _FIELDS]
    query = (
        sa.select(*columns)
        .join(tables.accounts, tables.accounts.c.id == table.c.account_id)
        .where(*conditions)
        .order_by(*([table.c.id] if by_id else [table.c.created_at, table.c.id]))
        .limit(limit)
    )
    rows = (await connection.execute(query)).all()
    by_key = await credentials.of_keys(connection, [row[_ID] for row in rows])
    return [_key(list(row), by_key[row[_ID]]) for row in rows]


def _key(row: list[Any], held: Sequence[Credential]) -> Key:
    """Make a key of the values of `_FIELDS`, in their order: it takes a third as long as by their names."""
    for place in _LISTS:
        row[place] = tuple(row[place] or ())
    if row[_WINDOW] is not None:
        row[_WINDOW] = Window(row[_WINDOW])
    values = [*row, tuple(held)]
    return Key(*values)


async def _lock_accounts(
    connection: AsyncConnection, account_ids: set[str], *, alone: bool
) -> dict[str, datetime | None]:
    """Hold off changes of the accounts, which would miss these keys; return when each one's service ends.

    With `alone` other new keys are held off too.
    """
    table = tables.accounts
    query = (
        sa.select(table.c.id, table.c.closed_at)
        .where(table.c.id.in_(account_ids))
        .order_by(table.c.id)
        .with_for_update(read=not alone)
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


def stored(values: Mapping[str, object]) -> dict[str, object]:
    """Return what a row holds of a key's fields: an empty list is none."""
    return {name: (value or None) if name in LISTS else value for name, value in values.items()}


def shown(values: Mapping[str, object]) -> dict[str, object]:
    """Return what the audit log may hold of a key's fields: that a secret is set, never the secret."""
    return {
        name: ("set" if value is not None else None) if name == SECRET else value
        for name, value in values.items()
    }


def _epoch(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()
