"""A small load generator that cuts no call off: `python -m benchmarks.drive`, which reads what to do as JSON.

Every connection sends the next request as soon as its answer is whole, until the time or the number of calls
is used up; then all wait for the answers under way. So the calls it reports are exactly the calls it made.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from time import perf_counter
from typing import Any, cast

import httptools
import uvloop

_ANSWER_DEADLINE_S = 30.0


class Budget:
    """How many calls may still be sent, and until when."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.left = calls or sys.maxsize
        self.until = perf_counter() + seconds if seconds else float("inf")

    def take(self, now: float) -> bool:
        """Take one call out of the budget, or say that none is left."""
        if self.left <= 0 or now >= self.until:
            return False
        self.left -= 1
        return True


class Client(asyncio.Protocol):
    """One connection; `httptools` calls the `on_...` methods."""

    def __init__(self, requests: Iterator[bytes], budget: Budget, latencies_s: list[float]) -> None:
        self._requests, self._budget, self._latencies_s = requests, budget, latencies_s
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self._sent_at = 0.0
        self._asking = False
        self._first_bytes = b""
        self.failed = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        if len(self._first_bytes) < len(_OK):
            self._first_bytes += data[: len(_OK)]

    def on_message_complete(self) -> None:
        now = perf_counter()
        if self._parser.get_status_code() == 200 and self._first_bytes.startswith(_OK):
            self._latencies_s.append(now - self._sent_at)
        else:
            self.failed += 1
        self._asking = False
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.failed += self._asking  # the call under way got no answer
        if not self.ended.done():
            self.ended.set_result(None)

    def _ask(self) -> None:
        assert self._transport is not None
        now = perf_counter()
        if not self._budget.take(now):
            self._transport.close()
            return
        self._sent_at, self._asking, self._first_bytes = now, True, b""
        self._transport.write(next(self._requests))


_OK = b'{"ErrorCode":"Ok"'


async def drive(
    port: int, requests: Sequence[str], connections: int, seconds: float, calls: int
) -> dict[str, float]:
    """Make the load and return the fields of `benchmarks.load.Load`."""
    loop = asyncio.get_running_loop()
    latencies_s: list[float] = []
    began = perf_counter()
    budget = Budget(calls, seconds)
    endless = cycle([request.encode() for request in requests])
    pairs = [
        await loop.create_connection(lambda: Client(endless, budget, latencies_s), "127.0.0.1", port)
        for _ in range(connections)
    ]
    clients = [client for _, client in pairs]
    await asyncio.wait([client.ended for client in clients], timeout=seconds + _ANSWER_DEADLINE_S)
    took_s = perf_counter() - began
    failed = sum(client.failed + (not client.ended.done()) for client in clients)
    ordered = sorted(latencies_s) or [0.0]

    def percentile_ms(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3

    return {
        "answered": len(latencies_s),
        "failed": failed,
        "seconds": took_s,
        "p50_ms": percentile_ms(0.5),
        "p99_ms": percentile_ms(0.99),
        "p999_ms": percentile_ms(0.999),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(drive(**json.load(sys.stdin)))))
