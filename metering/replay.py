"""Bringing journals in: what was let through in an outage is added to the counters, once.

A journal is taken when its writer has let go of it, by closing it or by dying, and is locked meanwhile. What
it holds is added up per key and day and settled under the journal's own id as the writer, in one batch each:
a settlement that Redis has seen from this writer has no second effect, so that whoever takes the journal
after a crash half-way ends what was begun. Then the file is removed, or replaced by one with what is left.

Redis may have come back without its newest counts. They are restored from the ledger first, since a counter
that had lost a part and was added to would be taken for whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.batches import settlement
from metering.clients import Client, wire_to
from metering.journal import (
    DRAFT_PREFIX,
    SUFFIX,
    Content,
    Place,
    encode_header,
    encode_owed,
    read,
    sync_directory,
)
from metering.ledger import marks, usage
from metering.restore import restore
from metering.scripts import SETTLE
from metering.snapshot import read_day
from metering.wire import Wire

CHUNK = 256
DAMAGED_SUFFIX = ".damaged"
_APPLIED = 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """A journal that was brought in, or as much of it as could be.

    `waiting` are the places whose key has no record in Redis: the journal stays until they have one, with
    nothing else in it. `torn_bytes` at its end were no whole record; they belong to calls that were not let
    through, unless the file was damaged, and are kept beside it as `kept_as`.
    """

    path: Path
    calls: int
    places: int
    waiting: tuple[Place, ...]
    torn_bytes: int
    kept_as: Path | None


def released(directory: Path) -> list[Path]:
    """Return the journals in a directory that nobody writes or brings in. Blocks."""
    found = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        file = _take(path)
        if file is not None:
            file.close()
            found.append(path)
    return found


async def bring_in(
    redis: Client, engine: AsyncEngine, paths: Sequence[Path], *, ttl_s: int, replicas: int = 0
) -> list[Replayed]:
    """Bring in those of the journals that nobody writes or brings in; what it raises is of the stores.

    A roll-up has to come before it: one that finds that Redis lost data brings everything back, here it is
    the counters that a journal adds to. A day's hash that is made lives `ttl_s`. A journal is kept until so
    many `replicas` have what it held.
    """
    done: list[Replayed] = []
    wire = wire_to(redis, replicas=replicas)
    try:
        async with engine.connect() as connection, marks.carrying(connection):
            for path in paths:
                async with _taken(path) as file:
                    if file is None:
                        continue
                    content = await asyncio.to_thread(read, file)
                    places = sorted(content.owed)
                    for start in range(0, len(places), CHUNK):
                        chunk = [(key_id, read_day(day)) for key_id, day in places[start : start + CHUNK]]
                        await restore(wire, await usage.read(connection, chunk))
                    missing = await _settle(wire, content, places, ttl_s)
                    kept_as = await asyncio.to_thread(_finish, path, content, missing)
                    done.append(
                        Replayed(
                            path, content.calls, len(places), tuple(missing), content.torn_bytes, kept_as
                        )
                    )
        return done
    finally:
        await wire.close()


async def _settle(wire: Wire, content: Content, places: Sequence[Place], ttl_s: int) -> list[Place]:
    """Settle what a journal holds; return the places whose key has no record."""
    missing = []
    for start in range(0, len(places), CHUNK):
        chunk = places[start : start + CHUNK]
        calls = [
            settlement({place: content.owed[place]}, content.journal_id, content.batch, ttl_s)
            for place in chunk
        ]
        for place, (applied,) in zip(chunk, await wire.run(SETTLE, calls), strict=True):
            if applied != _APPLIED:
                missing.append(place)
    return missing


@contextlib.asynccontextmanager
async def _taken(path: Path) -> AsyncIterator[BinaryIO | None]:
    """Hold a journal until the block ends; gives None when somebody else holds it or it is gone."""
    file = await asyncio.to_thread(_take, path)
    try:
        yield file
    finally:
        if file is not None:
            file.close()


def _take(path: Path) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _finish(path: Path, content: Content, missing: Sequence[Place]) -> Path | None:
    """Leave of a journal what is still to be settled; return where one with a torn end is kept."""
    kept_as = None
    if content.torn_bytes:
        kept_as = path.with_suffix(DAMAGED_SUFFIX)
        kept_as.unlink(missing_ok=True)
        os.link(path, kept_as)
    if not missing:
        path.unlink()
    elif len(missing) < len(content.owed) or kept_as is not None:
        draft = path.with_name(f"{DRAFT_PREFIX}{content.journal_id}")
        with draft.open("wb") as file:
            file.write(encode_header(content.journal_id, content.batch))
            for place in missing:
                file.write(encode_owed(place, content.owed[place]))
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o600)
        draft.replace(path)
    sync_directory(path.parent)
    return kept_as


def sweep(directory: Path) -> None:
    """Remove drafts whose writers died before they let a call through. Blocks."""
    for draft in directory.glob(f"{DRAFT_PREFIX}*"):
        file = _take(draft)
        if file is not None:
            draft.unlink(missing_ok=True)
            file.close()
