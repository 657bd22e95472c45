"""The proxies that are measured, each with its set-up as its users would tune it.

All but the bare one find the key's record by its HMAC in the same Redis, check its state and its limit for
the day, count the call by method, and forward it. A peer's set-up takes a `Bench` and gives a running `Peer`.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import redis

from benchmarks.machine import Layout, Process
from benchmarks.store import Store
from benchmarks.workloads import KEY_MARK, numbered

PEPPER = "benchmark-pepper-0123456789abcdef"
DAY_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Bench:
    """What a peer is given to start on: the cores, the shared store, the upstream's port, a folder, and how
    many keys it is to know.
    """

    layout: Layout
    store: Store
    origin_port: int
    folder: Path
    keys: int = 1


class MissingError(Exception):
    """A peer cannot be measured on this machine; the text says what to install."""


class Peer(ABC):
    """A proxy that can be started, measured and asked what it has counted."""

    title: str

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.port = 0
        self.credential = f"imported-{KEY_MARK}"  # of the first key; the others have another number
        self.process: Process | None = None

    def __enter__(self) -> Peer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.stop()

    @property
    def credentials(self) -> list[str]:
        """Return the texts of all keys that it is to know."""
        return [numbered(self.credential, number, self.bench.keys) for number in range(self.bench.keys)]

    @abstractmethod
    def start(self) -> None:
        """Start the proxy on a free port and wait until it listens; raises MissingError when it cannot be."""

    def counted(self) -> int | None:
        """Return the calls that the peer has counted for its key, or None when it does not count."""
        return None


def put_keys(store: redis.Redis, prefix: str, credentials: Sequence[str]) -> None:
    """Write the records that `count.lua` reads for keys."""
    with store.pipeline(transaction=False) as pipeline:
        for credential in credentials:
            record = {"state": "active", "limit": DAY_LIMIT}
            pipeline.hset(f"{prefix}:key:{_digest(credential)}", mapping=record)
        pipeline.execute()


def counted_by_script(store: redis.Redis, prefix: str) -> int:
    """Return what `count.lua` has counted, by the sum over keys, days and methods."""
    return sum(
        int(number)
        for counters in day_counters(store, f"{prefix}:day:*")
        for name, number in counters.items()
        if name.startswith("c:")
    )


def day_counters(store: redis.Redis, pattern: str) -> list[dict[str, str]]:
    """Return every day's counters whose name matches; a run may cross midnight."""
    with store.pipeline(transaction=False) as pipeline:
        for name in store.scan_iter(match=pattern, count=10_000):
            pipeline.hgetall(name)
        return cast(list[dict[str, str]], pipeline.execute())


def _digest(credential: str) -> str:
    return hmac.digest(PEPPER.encode(), credential.encode(), "sha256").hex()
