"""The names of everything in Redis.

A key's names carry its shard, the last two hex digits of its id, as the cluster's hash tag: one script can
serve all keys of a shard, and a cluster spreads 256 shards.
"""

from __future__ import annotations

READY = "tg:ready"  # epoch ms of the last roll-up or rebuild; missing when Redis has lost everything
SHARDS = tuple(f"{number:02x}" for number in range(256))


def shard_of(key_id: str) -> str:
    """Return the two hex digits of a key's shard."""
    return key_id[-2:]


def digest_name(digest: str) -> str:
    """Return the name of a credential's string: the id of its key."""
    return f"tg:digest:{digest}"


def record_name(key_id: str) -> str:
    """Return the name of a key's hash `rev`, `data`."""
    return f"tg:{{{key_id[-2:]}}}:key:{key_id}"


def day_name(key_id: str, day: str) -> str:
    """Return the name of the hash with a key's counters on a day (`20261121`)."""
    return f"tg:{{{key_id[-2:]}}}:day:{key_id}:{day}"


def names_of(key_id: str, member: str) -> tuple[str, str, str]:
    """Return the names that each count needs: record, counters on a day, touched set.

    `member` is `<key_id>:<day>`.
    """
    prefix = f"tg:{{{key_id[-2:]}}}:"
    return f"{prefix}key:{key_id}", f"{prefix}day:{member}", f"{prefix}touched"


def roll_name(key_id: str) -> str:
    """Return the name of a key's rolling window: units by bucket, their `sum`, `min` for the oldest.

    `late:<bucket>` are units that were given back before they came.
    """
    return f"tg:{{{key_id[-2:]}}}:roll:{key_id}"


def touched_name(shard: str) -> str:
    """Return the name of the set of `<key_id>:<day>` that changed since the last roll-up."""
    return f"tg:{{{shard}}}:touched"


def collected_name(shard: str) -> str:
    """Return the name of the set of `<key_id>:<day>` that a roll-up is working on."""
    return f"tg:{{{shard}}}:collected"


def rolled_name(shard: str) -> str:
    """Return the name of the mark that a roll-up leaves with a server; missing when the server lost it."""
    return f"tg:{{{shard}}}:rolled"
