"""The real servers that tests run against, out of the same wheels as the embedded stores."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.data_dir import run_directory
from gateway.stores import EmbeddedPostgres, EmbeddedValkey

START_S = 30.0


@contextlib.contextmanager
def process(store: EmbeddedValkey | EmbeddedPostgres) -> Iterator[subprocess.Popen[bytes]]:
    """Run a store until the block ends, and wait for its end; gives its process when it is ready."""
    store.prepare()
    with store.log_file.open("wb") as log:
        started = subprocess.Popen(store.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not store.is_ready():
            if started.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{store.name} did not start:\n{store.log_file.read_text()}")
            time.sleep(0.01)
        yield started
    finally:
        started.send_signal(store.stop_signal)
        started.wait(timeout=START_S)


@contextlib.contextmanager
def running(store: EmbeddedValkey | EmbeddedPostgres) -> Iterator[str]:
    """Run a store until the block ends; gives its URL."""
    with process(store):
        yield store.url


@contextlib.contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """Run a Valkey with its data below `directory`; gives its URL."""
    with running(EmbeddedValkey(directory, run_directory(directory))) as url:
        yield url


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Run a PostgreSQL without crash safety with its data below `directory`; gives its URL."""
    with running(EmbeddedPostgres(directory, run_directory(directory), durable=False)) as url:
        yield url
