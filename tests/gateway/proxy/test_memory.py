"""What is meant to make a worker grow: it is refused or passes through, and the worker does not grow."""

from __future__ import annotations

import asyncio
import gzip
import resource
from pathlib import Path

import pytest

from tests.origin import OK_JSON, Origin, answer
from tests.rig import Rig

MIB = 1024 * 1024
TIMES = 20  # each of them would show
ITEM = "/service-json/GetItemFullInfo"


def memory_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def request(key: str, *fields: str, line: str = f"POST {ITEM}", body: bytes = b"") -> bytes:
    """Return a request with the key in a field."""
    head = "\r\n".join((f"{line} HTTP/1.1", "Host: a", f"X-Rapidapi-Key: {key}", *fields, "", ""))
    return head.encode() + body


def hostile(name: str, key: str) -> bytes:
    """Return a hostile request by its name."""
    form = "Content-Type: application/x-www-form-urlencoded"
    chunks = "Transfer-Encoding: chunked"
    bomb = gzip.compress(b"itemId=1&x=" + b"a" * (20 * MIB))
    made = {
        "zip bomb": request(key, form, "Content-Encoding: gzip", f"Content-Length: {len(bomb)}", body=bomb),
        "10,000 chunks": request(key, form, chunks, body=b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"),
        "200 fields": request(key, *(f"X-{n}: {'y' * 200}" for n in range(200)), line=f"GET {ITEM}"),
        "a huge field": request(key, "X: " + "y" * MIB, line=f"GET {ITEM}"),
        "a huge trailer": request(key, form, chunks, body=b"1\r\na\r\n0\r\nX: " + b"y" * MIB + b"\r\n\r\n"),
        "100,000 trailers": request(
            key, form, chunks, body=b"1\r\na\r\n0\r\n" + b"X: yyyyyy\r\n" * 100_000 + b"\r\n"
        ),
        "a huge extension": request(key, form, chunks, body=b"1;" + b"x" * MIB + b"\r\na\r\n0\r\n\r\n"),
        "a huge HTTP method": request(key, line=f"{'G' * MIB} {ITEM}"),
        "a huge target": request(key, line=f"GET {ITEM}?x={'y' * MIB}"),
        "a huge method": request(key, line=f"GET /service-json/{'G' * 60_000}"),
        "a huge key": request("k" * 60_000, line=f"GET {ITEM}"),
        "100,000 parameters": request(key, form, "Content-Length: 400000", body=b"a=b&" * 100_000),
        "a body too large to be kept": request(key, form, "Content-Length: 3000000", body=b"a" * 3_000_000),
    }  # fmt: skip
    return made[name]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zip bomb", "Ok"), ("10,000 chunks", "Ok"), ("200 fields", 431), ("a huge field", 431),
        ("a huge trailer", "ValidationError"), ("100,000 trailers", "ValidationError"),
        ("a huge extension", "ValidationError"), ("a huge HTTP method", 501), ("a huge target", 431),
        ("a huge method", "ValidationError"), ("a huge key", "AccessDenied"),
        ("100,000 parameters", "ValidationError"), ("a body too large to be kept", "Ok"),
    ],
)  # fmt: skip
async def test_a_hostile_request_takes_no_memory(
    path: Rig, upstream: Origin, name: str, code: str | int
) -> None:
    """It is refused clearly, or passes as it came; twenty at once cost a worker less than 32 MiB."""
    key = await path.add_key()
    raw = hostile(name, key)
    await path.send(request(key, line=f"GET {ITEM}"))
    upstream.received.clear()
    before = memory_bytes()

    async def one() -> None:
        got = await path.send(raw)
        assert (got.status if isinstance(code, int) else got.json()["ErrorCode"]) == code

    await asyncio.gather(*(one() for _ in range(TIMES)))
    # What the test's own clients and origin hold of the bytes is no growth of the worker's.
    assert memory_bytes() - before < 32 * MIB + 2 * TIMES * len(raw)
    assert len(upstream.received) == (TIMES if code == "Ok" else 0)
    if name == "zip bomb":
        assert upstream.received[0].body == raw.partition(b"\r\n\r\n")[2]


async def test_a_bomb_of_an_answer_passes_as_it_is(path: Rig, upstream: Origin) -> None:
    """A compressed answer that would grow a thousandfold reaches the client in its own bytes."""
    key = await path.add_key()
    bomb = gzip.compress(OK_JSON + b" " * (50 * MIB))
    upstream.reply = answer(bomb, headers=b"Content-Encoding: gzip\r\n")
    await path.send(request(key, line=f"GET {ITEM}"))
    before = memory_bytes()
    for _ in range(TIMES):
        assert (await path.send(request(key, line=f"GET {ITEM}"))).body == bomb
    assert memory_bytes() - before < 32 * MIB
    assert (await path.counts(key)).get("v:error_code", 0) == 0
