from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime

import pytest

from demo.access import Access
from demo.catalogue import Catalogue
from demo.switches import HELP
from tests.demo.shop import Shop, running

ROOTS = "/service-json/GetRootCategoryInfoList"


async def test_raw_blanks_and_cyrillic_are_a_target(shop: Shop) -> None:
    """Whatever an old client writes between method and version arrives and is shown byte for byte."""
    xml = '<S><ItemTitle>чехол для</ItemTitle><Note a="b">"c" d</Note></S>'
    body = await shop.get(f"/service-json/SearchItemsFrame?language=ru&frameSize=1&xmlParameters={xml}")
    assert "чехол" in json.loads(body)["Result"]["Items"]["Content"][0]["Title"].lower()
    seen = json.loads(await shop.get("/demo/requests"))["requests"][-1]
    expected = f"/service-json/SearchItemsFrame?language=ru&frameSize=1&xmlParameters={xml}"
    assert seen["target"].encode("latin-1").decode() == expected


async def test_the_journal_shows_what_arrived(shop: Shop) -> None:
    """Targets, headers and bodies are shown raw, calls are counted by method, all until cleared."""
    await shop.get(ROOTS, "X-Odd-CASE:  a  b ", "X-Odd-CASE: c")
    await shop.post("/service/GetVendorInfo", b"vendorId=vendor-1&x=%zz")
    journal = json.loads(await shop.get("/demo/requests?limit=2"))
    assert journal["total"] == 2
    assert journal["methods"] == {"GetRootCategoryInfoList": 1, "GetVendorInfo": 1}
    by_get, by_post = journal["requests"]
    assert ["X-Odd-CASE", "a  b"] in by_get["headers"]
    assert ["X-Odd-CASE", "c"] in by_get["headers"]
    assert by_post["body"] == "vendorId=vendor-1&x=%zz"
    assert by_post["body_sha256"] == hashlib.sha256(b"vendorId=vendor-1&x=%zz").hexdigest()
    await shop.send(b"DELETE /demo/requests HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert json.loads(await shop.get("/demo/requests"))["total"] == 0


async def test_requests_on_one_connection_are_answered_in_order(shop: Shop) -> None:
    """Pipelined requests, slow ones among them, are answered one after the other."""
    raw = b"".join(
        f"GET /rest/items?limit=1&n={n}{slow} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode()
        for n, slow, close in ((1, "&x-demo-delay-ms=30", ""), (2, "", ""), (3, "", "Connection: close\r\n"))
    )
    assert (await shop.send(raw)).count(b"HTTP/1.1 200 OK") == 3
    targets = [each["target"] for each in json.loads(await shop.get("/demo/requests"))["requests"]]
    assert ["n=1" in targets[0], "n=2" in targets[1], "n=3" in targets[2]] == [True] * 3


async def test_bodies_come_in_chunks_and_pieces(shop: Shop) -> None:
    """A chunked body with extensions and a trailer is read, and so is a request that comes byte by byte."""
    chunked = (
        b"POST /rest/uploads HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    )
    answer = await shop.send(chunked)
    assert (
        json.loads(answer.partition(b"\r\n\r\n")[2])["sha256"] == hashlib.sha256(b"abc0123456789").hexdigest()
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
    for byte in chunked:
        writer.write(bytes([byte]))
        await writer.drain()
    assert b'"bytes":13' in await reader.read()
    writer.close()


async def test_a_hundred_continue_is_given(shop: Shop) -> None:
    """A client that asks whether to go on is told to."""
    head = b"PUT /rest/uploads HTTP/1.1\r\nExpect: 100-continue\r\n"
    raw = head + b"Content-Length: 2\r\nConnection: close\r\n\r\nab"
    assert (await shop.send(raw)).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n")


@pytest.mark.parametrize(
    "raw", [b"nonsense\r\n\r\n", b"GET /\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n"]
)
async def test_what_is_no_request_is_refused(shop: Shop, raw: bytes) -> None:
    """Without a method, a target and a version of HTTP/1 there is nothing to answer."""
    assert (await shop.send(raw)).startswith(b"HTTP/1.1 400 ")


async def test_errors_on_demand(shop: Shop) -> None:
    """By header or parameter a caller gets the error that it asks for, in each face's own form."""
    assert (
        json.loads(await shop.get(f"{ROOTS}?x-demo-error=ValidationError"))["ErrorCode"] == "ValidationError"
    )
    assert json.loads(await shop.get(ROOTS, "x-demo-error: CallLimit"))["ErrorCode"] == "CallLimit"
    batch = json.loads(await shop.post(ROOTS, b"x-demo-error=BatchError"))
    assert batch["ErrorCode"] == "BatchError"
    assert batch["Result"]["Content"]
    assert "error_response" in json.loads(await shop.get("/router/rest?method=x&format=json&x-demo-error=E"))
    assert json.loads(await shop.get("/rest/items?x-demo-error=E"))["status"] == 400
    raw = f"GET {ROOTS}?x-demo-status=503 HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
    assert (await shop.send(raw)).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


async def test_delays_on_demand(shop: Shop) -> None:
    """An answer is held back as long as is asked for, before it or in its middle."""
    for switch in ("x-demo-delay-ms", "x-demo-stall-ms"):
        begun = time.monotonic()
        assert json.loads(await shop.get(f"{ROOTS}?{switch}=60"))["ErrorCode"] == "Ok"
        assert time.monotonic() - begun >= 0.06


async def test_large_answers_on_demand(shop: Shop) -> None:
    """An answer is padded to a size, and is still the answer."""
    body = await shop.get(f"{ROOTS}?x-demo-size-bytes=3000000")
    assert len(body) == 3_000_000
    assert json.loads(body)["ErrorCode"] == "Ok"


async def test_broken_answers_on_demand(shop: Shop) -> None:
    """An answer ends after so many bytes although it announced more, or does not come at all."""
    for size in (0, 10):
        raw = f"GET {ROOTS}?x-demo-truncate={size} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        head, _, body = (await shop.send(raw)).partition(b"\r\n\r\n")
        assert b"Content-Length: " in head
        assert len(body) == size
    dropped = f"GET {ROOTS}?x-demo-drop=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with contextlib.suppress(ConnectionResetError):
        assert await shop.send(dropped) == b""


async def test_chunks_and_gzip_on_demand(shop: Shop) -> None:
    """An answer comes in chunks or in gzip when that is asked for, and holds the same."""
    plain = await shop.get("/rest/items?limit=5")
    raw = b"GET /rest/items?limit=5 HTTP/1.1\r\nAccept-Encoding: gzip,deflate\r\nConnection: close\r\n\r\n"
    head, _, body = (await shop.send(raw)).partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body) == plain
    chunked = await shop.get("/rest/items?limit=5", "x-demo-chunked: 1")
    size, _, rest = chunked.partition(b"\r\n")
    assert rest == plain + b"\r\n0\r\n\r\n"
    assert int(size, 16) == len(plain)


def test_the_help_names_every_switch() -> None:
    """What --help says is what there is."""
    from dataclasses import fields

    from demo.switches import Switches

    for field in fields(Switches):
        assert f"x-demo-{field.name.replace('_', '-')}=" in HELP


async def test_a_key_can_be_required(catalogue: Catalogue) -> None:
    """With --require-key a call without the upstream's own key is denied on every face."""
    async with running(catalogue, Access("the key", None)) as shop:
        assert json.loads(await shop.get(ROOTS))["ErrorCode"] == "AccessDenied"
        assert json.loads(await shop.get(f"{ROOTS}?instanceKey=other"))["ErrorCode"] == "AccessDenied"
        assert json.loads(await shop.get(f"{ROOTS}?instanceKey=the+key"))["ErrorCode"] == "Ok"
        assert json.loads(await shop.post(ROOTS, b"InstanceKey=the%20key"))["ErrorCode"] == "Ok"
        assert json.loads(await shop.get(ROOTS, "x-rapidapi-key: the key"))["ErrorCode"] == "Ok"
        assert json.loads(await shop.get("/rest/items"))["status"] == 401
        assert "items" in json.loads(await shop.get("/rest/items", "Authorization: Bearer the key"))
        denied = json.loads(await shop.get("/router/rest?method=taobao.items.search&format=json"))
        assert denied["error_response"]["code"] == 29


async def test_a_signature_can_be_required(catalogue: Catalogue) -> None:
    """With --secret a call has to be signed as OTAPI has it, and is told what is wrong."""
    async with running(catalogue, Access(None, "s3cret")) as shop:
        stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
        right = hashlib.sha256(f"GetRootCategoryInfoListK{stamp}s3cret".encode()).hexdigest()

        async def sub_code(query: str) -> str | None:
            answer = json.loads(await shop.get(f"{ROOTS}?instanceKey=K&{query}"))
            found: str | None = answer["SubErrorCode"]
            return found

        assert await sub_code(f"timestamp={stamp}&signature={right}") is None
        assert await sub_code(f"timestamp={stamp}&signature={right[:-1]}0x") == "InvalidSignature"
        assert await sub_code(f"timestamp={stamp}") == "MissingSignature"
        assert await sub_code(f"signature={right}") == "MissingTimestamp"
        assert await sub_code(f"timestamp=20200101000000&signature={right}") == "InvalidTimestamp"
        assert await sub_code(f"timestamp=x&signature={right}") == "InvalidTimestamp"


def test_the_program_serves_and_stops() -> None:
    """`python -m demo` says where it serves, answers, and ends cleanly on SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-m", "demo", "--port", "0", "--items", "10"], stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            url = program.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{url}/demo/health", timeout=10) as answer:  # noqa: S310 - it is http
                assert json.load(answer) == {"status": "ok"}
        finally:
            program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0


def test_a_port_in_use_is_named() -> None:
    """Somebody who starts it twice is told so, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "demo", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
