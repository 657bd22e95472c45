"""The proxies that are measured, each with its set-up as its users would tune it.

All but the bare one find the key's record by its HMAC in the same Redis, check its state and its limit for
the day, count the call by method, and forward it. A peer's set-up takes a `Bench` and gives a running `Peer`.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import redis

from benchmarks.machine import Layout, Process
from benchmarks.store import Store

PEPPER = "benchmark-pepper-0123456789abcdef"
DAY_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Bench:
    """What a peer is given to start on: the cores, the shared store, the upstream's port, a folder."""

    layout: Layout
    store: Store
    origin_port: int
    folder: Path


class MissingError(Exception):
    """A peer cannot be measured on this machine; the text says what to install."""


class Peer(ABC):
    """A proxy that can be started, measured and asked what it has counted."""

    title: str

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.port = 0
        self.credential = "imported-key-for-the-benchmark"
        self.process: Process | None = None

    def __enter__(self) -> Peer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.stop()

    @abstractmethod
    def start(self) -> None:
        """Start the proxy on a free port and wait until it listens; raises MissingError when it cannot be."""

    def counted(self) -> int | None:
        """Return the calls that the peer has counted for its key, or None when it does not count."""
        return None


def put_key(store: redis.Redis, prefix: str, credential: str) -> None:
    """Write the record that `count.lua` reads for a key."""
    store.hset(f"{prefix}:key:{_digest(credential)}", mapping={"state": "active", "limit": DAY_LIMIT})


def counted_by_script(store: redis.Redis, prefix: str, credential: str) -> int:
    """Return what `count.lua` has counted for a key, by the sum over days and methods."""
    return sum(
        int(number)
        for counters in day_counters(store, f"{prefix}:day:{_digest(credential)}:*")
        for name, number in counters.items()
        if name.startswith("c:")
    )


def day_counters(store: redis.Redis, pattern: str) -> list[dict[str, str]]:
    """Return every day's counters whose key matches; a run may cross midnight."""
    return [cast(dict[str, str], store.hgetall(name)) for name in store.scan_iter(match=pattern, count=1000)]


def _digest(credential: str) -> str:
    return hmac.digest(PEPPER.encode(), credential.encode(), "sha256").hex()
