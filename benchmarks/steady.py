"""A steady load on a route: a call is due at its time whether the one before was answered or not.

Latencies count from when a call was due, so that waiting for a free connection is part of them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

CONNECTIONS = 32  # on each route
OPEN, CLOSED = "open", "closed"


@dataclass(slots=True)
class Seen:
    """What the clients of one route saw: per phase latencies in ms and statuses, and calls by key."""

    latencies: dict[str, list[float]] = field(default_factory=dict)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    attempted: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    first_answer_at: dict[str, float] = field(default_factory=dict)  # by phase


@dataclass(slots=True)
class Phase:
    """What is going on now, and since when."""

    name: str = "warming"


class Connection:
    """One kept-alive connection of a client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body. Raises OSError or IncompleteReadError."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await _body(reader, head)
        except BaseException:
            self.close()
            raise
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close it; the next call opens a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if length is not None:
        return await reader.readexactly(int(length[1]))
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(pieces)


def request_of(route: str, key: str) -> bytes:
    """Return a call: OTAPI on the open route, plain REST on the closed one."""
    if route == OPEN:
        target, more = f"/service-json/GetItemInfoList?instanceKey={key}&itemId=1", ""
    else:
        target, more = "/rest/items", f"X-Api-Key: {key}\r\n"
    return f"GET {target} HTTP/1.1\r\nHost: gateway\r\n{more}\r\n".encode()


async def load(route: str, port: int, keys: Sequence[str], rate: float, phase: Phase, seen: Seen) -> None:
    """Call at a steady rate until cancelled, and wait for what is under way then."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(Connection(port))
    under_way: set[asyncio.Task[None]] = set()

    async def one(key: str, due: float) -> None:
        connection = await free.get()
        seen.attempted[key] += 1
        try:
            status, body = await connection.call(request_of(route, key))
        except (OSError, asyncio.IncompleteReadError):
            seen.broken += 1
            return
        finally:
            free.put_nowait(connection)
        now, name = time.perf_counter(), phase.name
        answer = _answer_of(status, body)
        if answer.endswith("answered"):
            seen.answered[key] += 1
            seen.first_answer_at.setdefault(name, now)
        seen.latencies.setdefault(f"{name} {answer}", []).append((now - due) * 1000)
        seen.statuses.setdefault(name, Counter())[answer] += 1

    began, number = time.perf_counter(), 0
    try:
        while True:
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(one(keys[number % len(keys)], due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
    finally:
        if under_way:
            await asyncio.wait(under_way)


def _answer_of(status: int, body: bytes) -> str:
    """Return the status with what it came to: answered, or the code of the refusal."""
    told = json.loads(body)
    code = told.get("ErrorCode") or told.get("reason") or told.get("failure") or ""
    if status == 200 and code in ("", "Ok"):
        return "200 answered"
    return f"{status} {code or told.get('type', '')}".strip()
