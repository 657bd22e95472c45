"""Records of keys as Redis has them."""

from __future__ import annotations

from metering.clients import Client
from metering.names import digest_name, record_name
from policies.record import KeyRecord


async def find_record(redis: Client, digest: str) -> KeyRecord | None:
    """Return the record of the key that a credential's digest belongs to, or belonged to."""
    key_id = await redis.get(digest_name(digest))
    return None if key_id is None else await fetch_record(redis, _text(key_id))


async def fetch_record(redis: Client, key_id: str) -> KeyRecord | None:
    """Return a key's record."""
    data = await redis.hget(record_name(key_id), "data")
    return None if data is None else KeyRecord.from_json(data)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
