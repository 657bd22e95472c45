"""Carrying changed keys from the ledger into the projection.

Apart from the projection itself, so that what only reads records, as workers do, loads nothing of the ledger.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clients import Client
from metering.ledger import revisions
from metering.projection import project
from metering.restore import restore_latest

ROUND = 2500  # keys in a transaction: each one begun costs as much as some dozens of keys


async def project_pending(redis: Client, engine: AsyncEngine, *, limit: int = ROUND) -> int:
    """Project up to `limit` keys that changed since they last were, and return how many that was.

    Counters of a key that Redis lost are restored from the ledger before its record is. A key of which Redis
    has a newer record than the ledger, which then came out of a backup, gets a revision that overtakes it,
    and is pending again. What it raises is of the stores.
    """
    async with engine.connect() as connection:
        records = await revisions.unprojected(connection, limit=limit)
        in_force = await project(redis, records)
        lost = [record for record in records if not in_force[record.key_id]]
        if lost:
            await restore_latest(redis, connection, [record.key_id for record in lost])
            in_force |= await project(redis, lost, restored=True)
        await revisions.mark_projected(connection, records)
        newer = {record.key_id for record in records if in_force[record.key_id] > record.revision}
        await revisions.overtake(connection, {key_id: in_force[key_id] for key_id in newer})
        await connection.commit()
    return len(records)
