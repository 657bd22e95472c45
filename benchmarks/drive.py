"""A small load generator that cuts no call off: `python -m benchmarks.drive`, which reads what to do as JSON.

Every connection sends the next request as soon as its answer is whole, until the time or the number of calls
is used up, or without either until its standard input is closed; then all wait for the answers under way. So
the calls it reports are exactly the calls it made.

With a rate, calls come due one after another at even distances, whatever the answers do. One that finds every
connection busy waits for the first that is free, and its wait is part of its latency.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from random import randrange
from time import perf_counter
from typing import Any, cast

import httptools
import uvloop

from benchmarks.workloads import numbered

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

    def end(self) -> None:
        """Allow no further call."""
        self.left = 0

    def is_spent(self, now: float) -> bool:
        """Say whether no call may be sent any more."""
        return self.left <= 0 or now >= self.until


class Client(asyncio.Protocol):
    """One connection; `httptools` calls the `on_...` methods."""

    def __init__(
        self, requests: Iterator[bytes], budget: Budget, latencies_s: list[float], pace: Pace | None = None
    ) -> None:
        self._requests, self._budget, self._latencies_s, self._pace = requests, budget, latencies_s, pace
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
        if self._pace is not None:
            self._pace.is_free(self)
        elif self._budget.take(now := perf_counter()):
            self.send(now)
        else:
            self.close()

    def send(self, due: float) -> None:
        """Make a call that was due at a time of `perf_counter`."""
        assert self._transport is not None
        self._sent_at, self._asking, self._first_bytes = due, True, b""
        self._transport.write(next(self._requests))

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        self._transport.close()


class Pace:
    """Gives out calls at even distances to connections that are free."""

    def __init__(self, rate: float, budget: Budget) -> None:
        self._distance_s, self._budget = 1 / rate, budget
        self._free: deque[Client] = deque()
        self._due = perf_counter()
        asyncio.get_running_loop().call_soon(self._tick)

    def is_free(self, client: Client) -> None:
        """Let a connection make the call that is due, or the next one; end it where none comes any more."""
        if self._budget.is_spent(perf_counter()):
            client.close()
            return
        self._free.append(client)
        self._give()

    def _tick(self) -> None:
        self._give()
        if self._budget.is_spent(perf_counter()):
            for client in self._free:
                client.close()
            return
        asyncio.get_running_loop().call_later(max(0.0, self._due - perf_counter()), self._tick)

    def _give(self) -> None:
        now = perf_counter()
        while self._free and self._due <= now:
            if not self._budget.take(self._due):
                return
            self._free.popleft().send(self._due)
            self._due += self._distance_s


_OK = b'{"ErrorCode":"Ok"'


async def drive(
    port: int,
    request: str,
    *,
    variants: int,
    keys: int,
    connections: int,
    seconds: float,
    calls: int,
    at_random: bool = False,
    rate: float | None = None,
) -> dict[str, float]:
    """Make the load and return the fields of `benchmarks.load.Load`."""
    loop = asyncio.get_running_loop()
    latencies_s: list[float] = []
    endless: Iterator[bytes]
    if at_random:
        endless = (numbered(request, randrange(keys), keys).encode() for _ in count())
    else:
        endless = cycle([numbered(request, number, keys).encode() for number in range(variants)])
    began = perf_counter()
    budget = Budget(calls, seconds)
    if not calls and not seconds:
        _end_with_input(loop, budget)
    pace = None if rate is None else Pace(rate, budget)
    pairs = [
        await loop.create_connection(lambda: Client(endless, budget, latencies_s, pace), "127.0.0.1", port)
        for _ in range(connections)
    ]
    clients = [client for _, client in pairs]
    await _end(clients, latencies_s, seconds)
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


def _end_with_input(loop: asyncio.AbstractEventLoop, budget: Budget) -> None:
    def closed() -> None:  # nothing more is written to it, so that this is all there can be to read
        loop.remove_reader(sys.stdin.fileno())
        budget.end()

    loop.add_reader(sys.stdin.fileno(), closed)


async def _end(clients: Sequence[Client], latencies_s: Sequence[float], seconds: float) -> None:
    """Wait until every connection has ended, or no answer has come for long."""
    timeout_s, answered = seconds + _ANSWER_DEADLINE_S, -1
    left = {client.ended for client in clients}
    while left and answered < len(latencies_s):
        answered = len(latencies_s)
        _, left = await asyncio.wait(left, timeout=timeout_s)
        timeout_s = _ANSWER_DEADLINE_S


if __name__ == "__main__":
    print(json.dumps(uvloop.run(drive(**json.loads(sys.stdin.readline())))))
