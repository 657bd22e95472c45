"""What servers say of their own past: which process answers, and of whose writes it has how many.

A server numbers the bytes of its writes for its replicas. The writes of one master are one history, known by
an id. A replica that takes over begins a history of its own, and keeps the id of the one before with the
number up to which it has it. So a replica that lacks something says so itself, to the byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import hiredis
from redis.crc import key_slot
from redis.exceptions import RedisError

from metering.names import SHARDS, rolled_name, touched_name
from metering.wire import LOST, Holder, Wire, refuse_errors

NO_HISTORY = "0" * 40  # how a server writes that it began with its history
ASK_S = 1.0  # for a server that may be gone

Slots = tuple[tuple[int, int], ...]  # first and last of each range
_SLOT_OF_SHARD = {shard: key_slot(touched_name(shard).encode()) for shard in SHARDS}


@dataclass(frozen=True, slots=True)
class History:
    """What a server that holds keys said when it was asked.

    `run_id` is new with every start. `offset` counts the bytes of the history `replid`. Up to
    `former_offset` the server has the history `former_replid` too; both are None when it began with its own.
    `appends` says that every write goes to its append-only file.
    """

    address: str
    slots: Slots
    run_id: str
    replid: str
    offset: int
    former_replid: str | None
    former_offset: int | None
    appends: bool


def shards_in(slots: Slots) -> tuple[str, ...]:
    """Return the shards that lie in these slots: the last two hex digits of the keys' ids."""
    return tuple(
        shard for shard, slot in _SLOT_OF_SHARD.items() if any(first <= slot <= last for first, last in slots)
    )


async def observe(wire: Wire) -> list[History | None]:
    """Ask every server that holds keys of its past; None for one that does not let itself be asked.

    Raises one of `LOST`, also when a server holds no keys any more by now.
    """
    holders = await wire.holders()
    told = await asyncio.gather(*(_ask(holder.wire) for holder in holders))
    for holder, fields in zip(holders, told, strict=True):
        if fields is not None and fields.get("role") == "slave":
            raise RedisError(f"{holder.address} follows another server and holds no keys of its own")
    return [
        None if fields is None else _read(holder, fields)
        for holder, fields in zip(holders, told, strict=True)
    ]


async def ask(wire: Wire, address: str) -> History | None:
    """Return what a server of before says of its past, whatever it does now; None when it is not there."""
    server = wire.beside(address, ASK_S)
    if server is None:
        return None
    try:
        fields = await _ask(server)
    except LOST:
        return None
    finally:
        await server.close()
    return None if fields is None else _read(Holder(address, (), server), fields)


async def marks_of(wire: Wire, shards: Sequence[str]) -> dict[str, int]:
    """Return the marks that roll-ups left in these shards; 0 where there is none."""
    if not shards:
        return {}
    found = refuse_errors(await wire.exchange([("GET", rolled_name(shard)) for shard in shards]))
    return {shard: int(value or 0) for shard, value in zip(shards, found, strict=True)}


async def _ask(wire: Wire) -> dict[str, str] | None:
    (told,) = await wire.exchange([("INFO", "server", "replication", "persistence")])
    if isinstance(told, hiredis.ReplyError):
        return None
    lines = (line.partition(":") for line in told.decode(errors="replace").splitlines())
    fields = {name: value for name, colon, value in lines if colon}
    return fields if {"run_id", "master_replid", "master_repl_offset"} <= fields.keys() else None


def _read(holder: Holder, fields: dict[str, str]) -> History:
    former = fields.get("master_replid2", NO_HISTORY)
    reached = int(fields.get("second_repl_offset", -1))
    known = former != NO_HISTORY and reached >= 0
    return History(
        holder.address,
        holder.slots,
        fields["run_id"],
        fields["master_replid"],
        int(fields["master_repl_offset"]),
        former if known else None,
        reached - 1 if known else None,  # the number names the first byte that is not of it
        fields.get("aof_enabled") == "1",
    )
