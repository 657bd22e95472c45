"""The upstream behind every peer: one canned answer, as fast as possible, and an exact count of the calls.

It is nginx when that is installed. Otherwise this module, run as a program, serves the same answer from a
small asyncio protocol: `python -m benchmarks.origin PORT COUNT_PORT BYTES`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
import urllib.request
from pathlib import Path
from typing import cast

import uvloop

from benchmarks import nginx
from benchmarks.machine import Process, free_port, python
from benchmarks.workloads import answer

_REST_S = 0.2
_FROM_MEMORY_BYTES = 100_000  # longer answers are files
_TOKEN_BYTES = 4000  # nginx refuses configuration words beyond 4 KB


class Origin:
    """A running upstream whose answers are `answer_bytes` long.

    With `turn_ns` it takes its turns on a core as what the gateway starts does.
    """

    def __init__(self, answer_bytes: int, cores: frozenset[int], folder: Path, *, turn_ns: int = 0) -> None:
        self.port, self._count_port = free_port(), free_port()
        self.is_nginx = nginx.binary() is not None
        if self.is_nginx:
            text = nginx.configuration(_servers(self.port, self._count_port, answer(answer_bytes), folder))
            command = nginx.write(folder, f"origin-{answer_bytes}", text)
        else:
            command = python("benchmarks.origin", str(self.port), str(self._count_port), str(answer_bytes))
        self._process = Process(f"origin-{answer_bytes}", command, cores, folder, turn_ns=turn_ns)
        self._asked = 0

    def __enter__(self) -> Origin:
        self._process.wait_for_port(self.port)
        self._process.wait_for_port(self._count_port)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def calls(self) -> int:
        """Return how many requests have reached the upstream."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._count_port}/", timeout=10) as reply:
            told = reply.read().decode()
        if not self.is_nginx:
            return int(told)
        # nginx counts the questions themselves too, this one included.
        self._asked += 1
        numbers = re.search(r"^ \d+ \d+ (\d+)", told, re.MULTILINE)
        assert numbers is not None, f"not nginx's status page: {told!r}"
        return int(numbers[1]) - self._asked

    def calls_at_rest(self) -> int:
        """Return the number once it stands still: calls that a client gave up may still be on their way."""
        before, now = -1, self.calls()
        while now != before:
            time.sleep(_REST_S)
            before, now = now, self.calls()
        return now


def _servers(port: int, count_port: int, body: str, folder: Path) -> str:
    said = _from_file(body, folder) if len(body) > _FROM_MEMORY_BYTES else _from_memory(body)
    return f"""
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            add_header Cache-Control private;
{said}
        }}
    }}
    server {{
        listen 127.0.0.1:{count_port};
        location / {{ stub_status; }}
    }}
"""


def _from_file(body: str, folder: Path) -> str:
    name = f"answer-{len(body)}.json"
    (folder / name).write_text(body)
    return f"            root {folder};\n            rewrite ^ /{name} break;\n            sendfile on;"


def _from_memory(body: str) -> str:
    parts = [body[at : at + _TOKEN_BYTES] for at in range(0, len(body), _TOKEN_BYTES)]
    variables = "\n".join(f"            set $part{number} '{part}';" for number, part in enumerate(parts))
    whole = "".join(f"${{part{number}}}" for number in range(len(parts)))
    return f'{variables}\n            return 200 "{whole}";'


class _Canned(asyncio.Protocol):
    """Answers each request with the same bytes; reads only as much of a request as tells where it ends."""

    calls = 0
    reply = b""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(buffer, 0, end + 2)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(buffer) < total:
                break
            buffer = buffer[total:]
            _Canned.calls += 1
            assert self._transport is not None
            self._transport.write(self.reply)
        self._buffer = buffer


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


async def _serve(port: int, count_port: int, answer_bytes: int) -> None:
    body = answer(answer_bytes).encode()
    _Canned.reply = (
        b"HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: application/json\r\n"
        b"Cache-Control: private\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = str(_Canned.calls).encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Canned, "127.0.0.1", port, backlog=4096)
    counting = await asyncio.start_server(count, "127.0.0.1", count_port)
    async with server, counting:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
