"""An embedded PostgreSQL that runs for one job, on data that are thrown away or on those that are there."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.data_dir import run_directory
from gateway.stores import ENVIRON, EmbeddedPostgres, StoreError

START_S = 30.0
STOP_S = 30.0


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[str]:
    """Run a new server until the block ends; gives its URL. Raises StoreError when it does not start.

    With `durable` it is set up as in earnest; otherwise it gives up crash safety for speed.
    """
    with tempfile.TemporaryDirectory(prefix="tallygate-", ignore_cleanup_errors=True) as folder:
        place = Path(folder).resolve()
        with running(EmbeddedPostgres(place, run_directory(place), durable=durable)) as url:
            yield url


@contextlib.contextmanager
def running(store: EmbeddedPostgres) -> Iterator[str]:
    """Run a server until the block ends; gives its URL. Raises StoreError when it does not start."""
    store.prepare()
    with store.log_file.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the wheel's own program
            store.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", env=ENVIRON
        )
    try:
        _wait_for(store, process)
        yield store.url
    finally:
        process.send_signal(store.stop_signal)
        process.wait(timeout=STOP_S)


def _wait_for(store: EmbeddedPostgres, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not store.is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StoreError(f"PostgreSQL did not start:\n{store.log_file.read_text()}")
        time.sleep(0.02)
