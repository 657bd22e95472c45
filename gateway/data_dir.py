"""The data directory, which one `tallygate serve` has for itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "serve.lock"


class DataDirError(Exception):
    """The data directory cannot be used; the message says why and what to do."""


@contextlib.contextmanager
def held(place: Path) -> Iterator[Path]:
    """Make the directory where needed and keep others off it; raises DataDirError when somebody has it.

    Others may pass it, as PostgreSQL's user does under root; every secret in it is closed by itself.
    """
    try:
        place.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        file = os.open(place / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DataDirError(f"The data directory {place} cannot be used: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 32).decode().strip() or "unknown"
            raise DataDirError(
                f"Another tallygate (process {holder}) serves from {place}. Stop it, or choose another place "
                "with [stores] data_dir or TALLYGATE_DATA_DIR."
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield place
    finally:
        os.close(file)


def was_left(place: Path) -> bool:
    """Say whether the last program ended in order; `leave` is the last thing it does."""
    return not (place / "run").is_symlink() and not (place / "run").exists()


def leave(place: Path) -> None:
    """Remove the sockets' directory (`gateway.stores.run_directory`)."""
    run = place / "run"
    shutil.rmtree(run.resolve(), ignore_errors=True)
    if run.is_symlink():
        run.unlink()
