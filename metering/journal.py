"""The journal: on disk, what was let through while it could not be counted.

A file is written by one process and only grows. It is a row of records, the first of which names the journal:

    record    length (4 bytes), CRC-32 of the payload (4 bytes), payload
    payload   JSON: the journal's id, version and batch; then what is owed to a key on a day, one a record

The id is the writer under which all of it is settled, and the batch the number: one, but where a settlement
that was sent already is to be sent again.

Records that come while others are being written form the next group, which is written and synced as one: a
call is let through when its group is on disk. A process that dies leaves whole records and perhaps a torn
one, whose call was not let through. Its file is locked as long as it lives, so that nobody takes it early.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from metering.batches import Owed, Sent

SUFFIX = ".journal"
DRAFT_PREFIX = ".draft-"
VERSION = 1
ONLY_BATCH = 1  # of a journal's id as a writer: each key's day is settled once
RECORD_MAX_BYTES = 1 << 20  # what claims to be longer is no record
_HEAD = struct.Struct(">II")

Place = tuple[str, str]  # key id, day
Written = Callable[[bool], None]


def encode(payload: object) -> bytes:
    """Return a record."""
    data = json.dumps(payload, separators=(",", ":")).encode()
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def encode_header(journal_id: str, batch: int = ONLY_BATCH) -> bytes:
    """Return a file's first record."""
    return encode({"journal": journal_id, "version": VERSION, "batch": batch})


def encode_owed(place: Place, owed: Owed) -> bytes:
    """Return the record of what is owed to a key on a day."""
    return encode([*place, owed.fields, owed.buckets, owed.first_ms])


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: what is owed by place, the calls in it, its whole records' bytes, and the rest's."""

    journal_id: str
    batch: int
    owed: dict[Place, Owed]
    calls: int
    whole_bytes: int
    torn_bytes: int


def read(file: BinaryIO) -> Content:
    """Add up a file's records until its end, or until what is no whole record."""
    size = os.fstat(file.fileno()).st_size
    owed: dict[Place, Owed] = {}
    journal_id, batch, calls, whole = "", ONLY_BATCH, 0, 0
    for payload, end in _records(file):
        if not journal_id:
            if not isinstance(payload, dict) or payload.get("version") != VERSION:
                break
            journal_id, batch = str(payload["journal"]), int(payload.get("batch", ONLY_BATCH))
        else:
            key_id, day, fields, buckets, first_ms = payload
            due = Owed(fields, {int(bucket): units for bucket, units in buckets.items()}, first_ms)
            calls += sum(number for name, number in fields.items() if name.startswith("c:"))
            owed.setdefault((key_id, day), Owed()).merge(due)
        whole = end
    return Content(journal_id, batch, owed, calls, whole, size - whole)


def _records(file: BinaryIO) -> Iterator[tuple[Any, int]]:
    """Yield each whole record's payload with the place where it ends."""
    end = 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if not 0 < length <= RECORD_MAX_BYTES:  # a file that was made longer before it was written has zeros
            return
        data = file.read(length)
        if len(data) < length or zlib.crc32(data) != checksum:
            return
        end += _HEAD.size + length
        yield json.loads(data), end


@dataclass(slots=True)
class _Entry:
    record: bytes
    written: Written
    revoked_by: bytes | None  # the record that takes it back; None for what can wait


class Journal:
    """One file while it is written. Its methods belong to one event loop; writing is done in a thread."""

    def __init__(self, directory: Path, *, deadline_s: float, again: Sent | None = None) -> None:
        """Make the journal, and its file with the first record; whoever writes waits `deadline_s` at most.

        It is to hold a settlement that was sent already, with `again`.
        """
        self.id, self._batch = (
            (secrets.token_hex(8), ONLY_BATCH) if again is None else (again.writer, again.number)
        )
        self.path = directory / f"{self.id}{SUFFIX}"
        self.bytes = 0  # written or about to be
        self.failure = ""  # why the last group could not be written; empty when it could
        self.is_stalled = False  # a group has been on its way to the disk for longer than the deadline
        self._deadline_s = deadline_s
        self._queue: list[_Entry] = []
        self._task: asyncio.Task[None] | None = None
        self._file: int | None = None
        self._whole_bytes = 0
        self._is_named = False  # its name is on disk
        self._has_torn_end = False  # of a group that was refused, something could not be cut off

    def append(self, place: Place, owed: Owed, written: Written, revoke: Owed | None = None) -> None:
        """Write what is owed; `written` is told later, from the loop, whether it is on disk.

        With `revoke` the answer comes within the deadline. If the disk takes longer it is False, and what was
        written nevertheless is followed by `revoke`, which takes it back.
        """
        record = encode_owed(place, owed)
        self.bytes += len(record)
        self._queue.append(_Entry(record, written, encode_owed(place, revoke) if revoke else None))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all(), name="journal")

    async def close(self) -> bool:
        """Write what is queued and let go of the file; return False if it cannot be let go of yet.

        That is while a group that was refused cannot be cut off: its whole records would be counted.
        """
        while self._task is not None:
            await asyncio.wait({self._task})
        if self._file is not None and self._has_torn_end:
            try:
                await asyncio.to_thread(self._cut_off, self._file)
            except OSError as error:
                self.failure = str(error)
                return False
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
        return True

    async def _write_all(self) -> None:
        try:
            while self._queue:
                group, self._queue = self._queue, []
                await self._write_group(group)
        finally:
            self._task = None

    async def _write_group(self, group: list[_Entry]) -> None:
        data = b"".join(entry.record for entry in group)
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, data))
        await asyncio.wait({writing}, timeout=self._deadline_s)
        late = self._give_up(group) if not writing.done() else []
        await asyncio.wait({writing})
        self.is_stalled = False
        error = writing.exception()
        self.failure = "" if error is None else str(error) or type(error).__name__
        if error is not None:
            self.bytes -= len(data)
        else:
            self._queue += [_Entry(entry.revoked_by or b"", _ignore, None) for entry in late]
        for entry in group:
            if not late or entry.revoked_by is None:
                self._tell(entry, error is None)

    def _give_up(self, group: list[_Entry]) -> list[_Entry]:
        """Answer those who cannot wait for a disk that hangs; return which of the group they are."""
        self.is_stalled = True
        late = [entry for entry in group if entry.revoked_by is not None]
        unsent = [entry for entry in self._queue if entry.revoked_by is not None]
        self._queue = [entry for entry in self._queue if entry.revoked_by is None]
        self.bytes -= sum(len(entry.record) for entry in unsent)
        for entry in (*late, *unsent):
            self._tell(entry, False)
        return late

    def _tell(self, entry: _Entry, on_disk: bool) -> None:
        try:
            entry.written(on_disk)
        except Exception as error:  # noqa: BLE001 - one caller's mistake must not cost the others their answer
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a journaled call failed", "exception": error}
            )

    def _write(self, data: bytes) -> None:
        """Append to the file and wait for the disk; a group is there whole or not at all. Blocks."""
        if self._file is None:
            self._file = self._create()
        if not self._is_named:
            sync_directory(self.path.parent)
            self._is_named = True
        if self._has_torn_end:
            self._cut_off(self._file)  # who reads the file would not come to what stands behind it
        try:
            _write_whole(self._file, data)
        except OSError:
            self._has_torn_end = True
            with contextlib.suppress(OSError):
                self._cut_off(self._file)
            raise
        self._whole_bytes += len(data)

    def _cut_off(self, file: int) -> None:
        os.ftruncate(file, self._whole_bytes)
        self._has_torn_end = False

    def _create(self) -> int:
        """Make the file under another name until it is locked and names its journal."""
        directory = self.path.parent
        directory.mkdir(mode=0o700, exist_ok=True)
        draft = directory / f"{DRAFT_PREFIX}{self.id}"
        draft.unlink(missing_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header = encode_header(self.id, self._batch)
            _write_whole(file, header)
            draft.rename(self.path)
        except OSError:
            os.close(file)
            raise
        self._whole_bytes = len(header)
        return file


def _write_whole(file: int, data: bytes) -> None:
    """Write all of it, which a nearly full disk takes a part of only, and wait for the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    _sync(file)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on disk. Blocks."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _ignore(_: bool) -> None:
    """Nobody waits for what takes a late record back."""


_sync = getattr(os, "fdatasync", os.fsync)  # macOS has the second only
