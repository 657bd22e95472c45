"""The data directory, which one `tallygate serve` has for itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "serve.lock"
LONGEST_SOCKET = "postgres-.s.PGSQL.5432"
_SOCKET_PATH_MAX_BYTES = 103  # of macOS; Linux has 107


class DataDirError(Exception):
    """The data directory cannot be used; the message says why and what to do."""


def make(place: Path) -> None:
    """Make the directory where needed; raises OSError.

    Under root others may pass it, as PostgreSQL's user does; every secret in it is closed by itself.
    """
    place.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def held(place: Path) -> Iterator[Path]:
    """Make the directory where needed and keep others off it; raises DataDirError when somebody has it."""
    try:
        make(place)
        file = _lock(place / LOCK_FILE)
    except OSError as error:
        raise DataDirError(f"The data directory {place} cannot be used: {error.strerror}.") from error
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield place
    finally:
        # Nobody else can hold a store's lock while this one is held, and whoever waits here looks again.
        for lock in place.glob("*.lock"):
            lock.unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path) -> int:
    """Return the open file that holds the lock on `path`."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 32).decode().strip() or "unknown"
            os.close(file)
            raise DataDirError(
                f"Another tallygate (process {holder}) serves from {path.parent}. Stop it, or choose another "
                "place with [stores] data_dir or TALLYGATE_DATA_DIR."
            ) from None
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)  # its last holder removed it between the two steps


def holder(place: Path) -> int | None:
    """Return the id of the process that serves from here, None when nobody does; raises OSError."""
    try:
        file = os.open(place / LOCK_FILE, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(file, 32).decode().strip() or 0) or None
    finally:
        os.close(file)
    return None


def why_unusable(place: Path) -> str | None:
    """Say what would keep this user from serving from here, None for nothing; makes nothing.

    That somebody serves from here already is no fault of the place.
    """
    there = place
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is no directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written by this user"
    if (lock := place / LOCK_FILE).exists() and not os.access(lock, os.R_OK | os.W_OK):
        return f"{lock} belongs to another user"
    return None


def run_directory(data_dir: Path) -> Path:
    """Make and return the directory for sockets: `run` in the data directory, which is absolute and exists.

    Where that path is too long for a socket's name or its file system has no sockets, `run` becomes a link
    to a new temporary directory; one that an earlier run left behind is removed.
    """
    place = data_dir / "run"
    if place.is_symlink():
        left = place.readlink()
        if left.name.startswith("tallygate-") and left.is_dir() and left.stat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)
        place.unlink()
    place.mkdir(mode=0o711, exist_ok=True)
    if not _takes_sockets(place):
        shutil.rmtree(place)
        place.symlink_to(tempfile.mkdtemp(prefix="tallygate-"))
    run = place.resolve()
    run.chmod(0o711)  # PostgreSQL's user passes through it to a directory of its own
    return run


def was_left(place: Path) -> bool:
    """Say whether the last program ended in order; `leave` is the last thing it does."""
    return not (place / "run").is_symlink() and not (place / "run").exists()


def leave(place: Path) -> None:
    """Remove the sockets' directory (`run_directory`)."""
    run = place / "run"
    shutil.rmtree(run.resolve(), ignore_errors=True)
    if run.is_symlink():
        run.unlink()


def _takes_sockets(directory: Path) -> bool:
    longest = directory / LONGEST_SOCKET
    if len(os.fsencode(longest)) > _SOCKET_PATH_MAX_BYTES:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(str(longest))
    except OSError:
        return False
    longest.unlink()
    return True
