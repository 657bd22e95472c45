"""The projection: what gateways decide on, a record per key in Redis, made from the ledger.

A record in place says that the key's counters are whole, so no record comes back to an emptied Redis before
they do.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clients import Client, wire_to
from metering.ledger import revisions
from metering.names import digest_name, record_name
from metering.restore import restore_latest
from metering.scripts import PROJECT
from metering.wire import closed_meanwhile, refuse_errors
from policies.record import KeyRecord

CHUNK = 1000  # records in a round trip to Redis
ROUND = 2500  # keys in a transaction: each one begun costs as much as some dozens of keys


class Projection:
    """Reads and writes records. What it raises is redis-py's RedisError or OSError."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the record of the key that a credential's digest belongs to, or belonged to."""
        try:
            key_id = await self._redis.get(digest_name(digest))
        except RuntimeError as error:
            raise closed_meanwhile(error) from error
        return None if key_id is None else await self.fetch(_text(key_id))

    async def fetch(self, key_id: str) -> KeyRecord | None:
        """Return a key's record."""
        try:
            data = await self._redis.hget(record_name(key_id), "data")
        except RuntimeError as error:
            raise closed_meanwhile(error) from error
        return None if data is None else KeyRecord.from_json(data)

    async def close(self) -> None:
        """Let go of what lookups have opened; the client is its owner's to close."""

    async def put(self, records: Sequence[KeyRecord], *, restored: bool = False) -> dict[str, int]:
        """Bring records into force where they are newer, and return each key's revision in force.

        It is 0 for a changed key of which Redis has no record: Redis lost it, and its counters have to be
        restored first; `restored` says that they were.
        """
        wire = wire_to(self._redis)
        try:
            in_force: list[int] = []
            for first in range(0, len(records), CHUNK):
                chunk = records[first : first + CHUNK]
                # Credentials first: one that leads to no record yet is unknown, as it was before.
                credentials = [
                    ("SET", digest_name(digest), record.key_id)
                    for record in chunk
                    for digest in record.credentials
                ]
                if credentials:
                    refuse_errors(await wire.exchange(credentials))
                in_force += await wire.run(
                    PROJECT,
                    [
                        ((record_name(record.key_id),), (record.revision, record.to_json(), int(restored)))
                        for record in chunk
                    ],
                )
            return {record.key_id: revision for record, revision in zip(records, in_force, strict=True)}
        finally:
            await wire.close()


async def project_pending(redis: Client, engine: AsyncEngine, *, limit: int = ROUND) -> int:
    """Project up to `limit` keys that changed since they last were, and return how many that was.

    Counters of a key that Redis lost are restored from the ledger before its record is. A key of which Redis
    has a newer record than the ledger, which then came out of a backup, gets a revision that overtakes it,
    and is pending again. What it raises is of the stores.
    """
    projection = Projection(redis)
    async with engine.connect() as connection:
        records = await revisions.unprojected(connection, limit=limit)
        in_force = await projection.put(records)
        lost = [record for record in records if not in_force[record.key_id]]
        if lost:
            await restore_latest(redis, connection, [record.key_id for record in lost])
            in_force |= await projection.put(lost, restored=True)
        await revisions.mark_projected(connection, records)
        newer = {record.key_id for record in records if in_force[record.key_id] > record.revision}
        await revisions.overtake(connection, {key_id: in_force[key_id] for key_id in newer})
        await connection.commit()
    return len(records)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
