"""The projection: what gateways decide on, a record per key in Redis, made from the ledger.

A record in place says that the key's counters are whole, so no record comes back to an emptied Redis before
they do.
"""

from __future__ import annotations

from collections.abc import Sequence

from metering.clients import Client, wire_to
from metering.names import digest_name, record_name
from metering.scripts import PROJECT
from metering.wire import refuse_errors
from policies.record import KeyRecord

CHUNK = 1000  # records in a round trip to Redis


async def project(redis: Client, records: Sequence[KeyRecord], *, restored: bool = False) -> dict[str, int]:
    """Bring records into force where they are newer, and return each key's revision in force.

    It is 0 for a changed key of which Redis has no record: Redis lost it, and its counters have to be
    restored first; `restored` says that they were. What it raises is redis-py's RedisError or OSError.
    """
    wire = wire_to(redis)
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
