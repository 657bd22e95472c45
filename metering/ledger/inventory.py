"""What a ledger holds, table by table: what a backup says of itself and a restored ledger is checked by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import metadata
from metering.ledger.engine import revisions
from metering.ledger.marks import ROLLUP

REVISION_TABLE = "alembic_version"
FORMER_TABLES = ("usage_daily",)  # of earlier schemas, which have it as a table; it is a view now


@dataclass(frozen=True, slots=True)
class Inventory:
    """A ledger's schema revision (None: no ledger), rows by table, last roll-up (epoch ms, 0: none)."""

    revision: str | None
    rows: dict[str, int]
    rolled_up_ms: int

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is lost when these tables go."""
        return not any(self.rows.values())


async def take(connection: AsyncConnection) -> Inventory:
    """Count all rows of the database's tables, as the connection's transaction sees them."""
    names = await _tables(connection)
    revision = None
    if REVISION_TABLE in names:
        table = sa.table(REVISION_TABLE, sa.column("version_num"))
        revision = (await connection.execute(sa.select(table.c.version_num))).scalar()
    rows = {}
    for name in names:
        if name != REVISION_TABLE:
            table = sa.table(name)
            rows[name] = (
                await connection.execute(sa.select(sa.func.count()).select_from(table))
            ).scalar_one()
    mark = 0
    if "marks" in rows:
        query = sa.text("SELECT value FROM marks WHERE name = :name")
        mark = (await connection.execute(query, {"name": ROLLUP})).scalar() or 0
    return Inventory(revision, rows, mark)


async def snapshot_for_others(connection: AsyncConnection) -> str:
    """Fix what this transaction sees, and return the name by which other sessions can see the same.

    The connection has to be at the beginning of its transaction, and keep it open while others read.
    """
    await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    return str((await connection.execute(sa.select(sa.func.pg_export_snapshot()))).scalar_one())


async def clearing(connection: AsyncConnection, tables: Collection[str]) -> list[str]:
    """Return the statements that remove these tables, this version's, and their triggers' functions."""
    ours = {*tables, *metadata.tables, *FORMER_TABLES, REVISION_TABLE}
    present = [name for name in await _tables(connection) if name in ours]
    if not present:
        return []
    functions = sa.text(
        """
        SELECT DISTINCT p.oid::regprocedure::text FROM pg_trigger t
        JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE NOT t.tgisinternal AND c.relnamespace = 'public'::regnamespace AND c.relname = ANY(:tables)
        ORDER BY 1
        """
    ).bindparams(sa.bindparam("tables", present, sa.ARRAY(sa.Text)))
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(f"public.{quote(name)}" for name in present)
    found = (await connection.execute(functions)).scalars()
    return [f"DROP TABLE {names} CASCADE", *(f"DROP FUNCTION {each}" for each in found)]


async def gateways(connection: AsyncConnection) -> int:
    """Return how many other sessions of gateways are connected to this database."""
    query = sa.text(
        """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'tallygate' AND pid <> pg_backend_pid()
        """
    )
    return int((await connection.execute(query)).scalar_one())


def is_known(revision: str) -> bool:
    """Say whether this version can use a ledger of that schema, by bringing it up to its own."""
    return revision in revisions()


async def _tables(connection: AsyncConnection) -> list[str]:
    query = sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return list((await connection.execute(query)).scalars())
