"""The journal's file: whole records, one writer, and nothing lost that was said to be on disk."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from metering import batches, journal
from metering.batches import Owed
from metering.journal import Content, Journal, read
from policies.quota import Window
from policies.waiver import Waiver
from tests.metering.samples import DAY, KEY, NOW, OTHER_KEY, take

METHOD = "SearchItemsFrame|search"


def admitted(**changes: object) -> Owed:
    """What one call adds."""
    owed = Owed()
    batches.admit(owed, take(**changes), NOW)
    return owed


def revoked() -> Owed:
    """What takes it back."""
    owed = Owed()
    batches.waive(owed, take(), Waiver.NOT_FORWARDED)
    return owed


async def appended(to: Journal, *dues: Owed, key_id: str = KEY) -> list[bool]:
    """Append at once, and wait for what is said of each."""
    loop = asyncio.get_running_loop()
    results: list[asyncio.Future[bool]] = []
    for owed in dues:
        result: asyncio.Future[bool] = loop.create_future()
        results.append(result)
        to.append((key_id, DAY), owed, result.set_result, revoked())
    async with asyncio.timeout(20):
        return await asyncio.gather(*results)


def content(path: Path) -> Content:
    """Read a journal, as whoever brings it in does."""
    with path.open("rb") as file:
        return read(file)


async def test_what_was_written_is_read_back_summed_up(tmp_path: Path) -> None:
    """Records of a place add up; fields, buckets and the first call survive."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    rolling = admitted(window=Window.ROLLING_24H)
    assert await appended(made, rolling, rolling) == [True, True]
    assert await appended(made, revoked()) == [True]
    assert await appended(made, admitted(), key_id=OTHER_KEY) == [True]
    await made.close()
    found = await asyncio.to_thread(content, made.path)
    assert (found.journal_id, found.calls, found.torn_bytes) == (made.id, 3, 0)
    assert found.whole_bytes == made.path.stat().st_size
    owed = found.owed[(KEY, DAY)]
    assert owed.fields == {
        f"c:{METHOD}": 2,
        f"t:{METHOD}": 2,
        "used": 2,
        f"w:{METHOD}": 1,
        "v:not_forwarded": 1,
        "back": 1,
    }
    assert owed.buckets == {bucket: 2 * units for bucket, units in rolling.buckets.items()}
    assert owed.first_ms == int(NOW * 1000)
    assert found.owed[(OTHER_KEY, DAY)].fields["used"] == 1


async def test_the_file_is_for_this_user_only_and_names_keys_by_id(tmp_path: Path) -> None:
    """Directory and file are closed to others, and hold nothing but ids, methods and numbers."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    await appended(made, admitted())
    assert made.path.parent.stat().st_mode & 0o777 == 0o700
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]
    await made.close()


async def test_calls_at_once_share_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand calls at once need two or three syncs, not a thousand."""
    syncs = []

    def sync(file: int) -> None:
        syncs.append(file)
        os.fsync(file)

    monkeypatch.setattr(journal, "_sync", sync)
    made = Journal(tmp_path / "journal", deadline_s=20)
    assert await appended(made, *[admitted()] * 1000) == [True] * 1000
    await made.close()
    assert len(syncs) <= 4
    assert (await asyncio.to_thread(content, made.path)).calls == 1000


async def test_a_file_is_locked_while_it_is_written(tmp_path: Path) -> None:
    """Nobody takes a journal whose writer lives; closing lets go of it."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    await appended(made, admitted())
    with made.path.open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await made.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "long", "header"])
async def test_what_is_no_whole_record_ends_the_journal(tmp_path: Path, damage: str) -> None:
    """At a torn, altered or senseless record reading ends; the whole ones before it count."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    await appended(made, *[admitted()] * 3)
    await made.close()
    data = made.path.read_bytes()
    last = len(data) - len(journal.encode_owed((KEY, DAY), admitted()))
    match damage:
        case "cut":
            data = data[:-1]
        case "flipped":
            data = data[:-1] + bytes([data[-1] ^ 1])
        case "garbage":
            data += b"\0" * 11
            last = len(data) - 11
        case "long":
            data = data[:last] + b"\xff" * 50
        case _:
            data = b"x" + data
            last = 0
    made.path.write_bytes(data)
    found = await asyncio.to_thread(content, made.path)
    assert found.calls == {0: 0, len(data) - 11: 3}.get(last, 2)
    assert (found.whole_bytes, found.torn_bytes) == (last, len(data) - last)


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_journal_may_end_anywhere(tmp_path: Path, cut: int) -> None:
    """Whatever part of a file a crash left, what is read of it is a row of whole calls."""
    records = [journal.encode_header("0123456789abcdef")]
    records += [journal.encode_owed((KEY, DAY), admitted())] * 3
    data = b"".join(records)
    path = tmp_path / "a.journal"
    path.write_bytes(data[: len(data) - cut])
    found = content(path)
    assert found.whole_bytes + found.torn_bytes == max(0, len(data) - cut)
    assert found.calls == max(0, (found.whole_bytes - len(records[0])) // len(records[1]))
    assert found.torn_bytes < max(map(len, records))


async def test_a_full_disk_refuses_and_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that cannot be written is answered so and cut off again; the next one is written."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    await appended(made, admitted())
    write, fail = os.write, [True]

    def short(file: int, data: bytes) -> int:
        if fail:
            fail.pop()
            write(file, bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", short)
    size = made.bytes
    assert await appended(made, admitted(), admitted()) == [False, False]
    assert "No space" in made.failure
    assert made.bytes == size
    assert await appended(made, admitted()) == [True]
    assert made.failure == ""
    await made.close()
    found = await asyncio.to_thread(content, made.path)
    assert (found.calls, found.torn_bytes) == (2, 0)


async def test_nothing_is_written_behind_a_torn_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While half a record cannot be cut off, nothing is let through: it would not be read behind it."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    await appended(made, admitted())
    write, truncate, fail, stuck = os.write, os.ftruncate, [True], [True, True]

    def short(file: int, data: bytes) -> int:
        if fail:
            fail.pop()
            write(file, bytes(data)[:10])
            raise OSError(errno.EIO, "Input/output error")
        return write(file, data)

    def cut(file: int, length: int) -> None:
        if stuck:
            stuck.pop()
            raise OSError(errno.EIO, "Input/output error")
        truncate(file, length)

    monkeypatch.setattr(os, "write", short)
    monkeypatch.setattr(os, "ftruncate", cut)
    assert [await appended(made, admitted()) for _ in range(3)] == [[False], [False], [True]]
    await made.close()
    found = await asyncio.to_thread(content, made.path)
    assert (found.calls, found.torn_bytes) == (2, 0)


async def test_a_refused_group_is_cut_off_before_the_file_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are whole, and would be counted: while it cannot be cut off, nobody else gets the file."""
    made = Journal(tmp_path / "journal", deadline_s=20)
    await appended(made, admitted())
    sync, truncate = journal._sync, os.ftruncate

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(journal, "_sync", fail)
    monkeypatch.setattr(os, "ftruncate", fail)
    assert await appended(made, admitted(), admitted()) == [False, False]
    assert not await made.close()
    assert "Read-only" in made.failure
    with made.path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    monkeypatch.setattr(journal, "_sync", sync)
    monkeypatch.setattr(os, "ftruncate", truncate)
    assert await made.close()
    found = await asyncio.to_thread(content, made.path)
    assert (found.calls, found.torn_bytes) == (1, 0)


async def test_a_disk_that_takes_a_part_at_a_time_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first record too, which names the journal: without it nothing behind it would be read."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:7]))
    made = Journal(tmp_path / "journal", deadline_s=20)
    assert await appended(made, admitted(), admitted()) == [True, True]
    await made.close()
    found = await asyncio.to_thread(content, made.path)
    assert (found.calls, found.torn_bytes) == (2, 0)


async def test_a_name_that_is_not_on_disk_yet_is_no_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the directory cannot be written nothing is let through, and the file is held."""
    sync = journal.sync_directory

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal, "sync_directory", fail)
    made = Journal(tmp_path / "journal", deadline_s=20)
    assert await appended(made, admitted()) == [False]
    with made.path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    monkeypatch.setattr(journal, "sync_directory", sync)
    assert await appended(made, admitted()) == [True]
    await made.close()
    assert (await asyncio.to_thread(content, made.path)).calls == 1


async def test_a_file_that_cannot_be_made_refuses(tmp_path: Path) -> None:
    """Without a place to write, nothing is let through."""
    (tmp_path / "journal").write_text("a file where the directory should be", encoding="utf-8")
    made = Journal(tmp_path / "journal", deadline_s=20)
    assert await appended(made, admitted()) == [False]
    assert made.failure
    await made.close()


async def test_a_disk_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are refused after the deadline; when their group is written after all, it is taken back."""
    let_go = threading.Event()
    sync: Callable[[int], None] = journal._sync
    made = Journal(tmp_path / "journal", deadline_s=0.05)
    await appended(made, admitted())
    monkeypatch.setattr(journal, "_sync", lambda file: (let_go.wait(20), sync(file))[1])
    settled: list[bool] = []
    try:
        waiting = asyncio.ensure_future(appended(made, admitted(), admitted()))
        await asyncio.sleep(0)
        made.append((KEY, DAY), revoked(), settled.append)  # in the same group, and patient
        assert await waiting == [False, False]
        assert made.is_stalled
        assert settled == []
    finally:
        let_go.set()
    await made.close()
    assert not made.is_stalled
    assert settled == [True]
    found = (await asyncio.to_thread(content, made.path)).owed[(KEY, DAY)].fields
    assert (found["used"], found["back"]) == (3, 3)
