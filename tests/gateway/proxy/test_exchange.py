"""A call's life from the client's bytes to the upstream's and back, on real sockets and a real Valkey."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gzip
import json
import os
from datetime import date

import pytest
from structlog.testing import capture_logs

from gateway.proxy.access_log import BATCH_LINES
from policies import keys
from policies.methods import MethodRule, MethodTable
from policies.period import midnight
from policies.quota import Window
from tests.origin import OK_JSON, Origin, Received, answer
from tests.rig import Rig, example_settings, rig, until

ERROR_JSON = b'{"ErrorCode":"ValidationError","SubErrorCode":null,"ErrorDescription":"no such item"}'


def get(key: str, method: str = "SearchItemsFrame", query: str = "", headers: str = "") -> bytes:
    """Return a GET as a newer client writes it."""
    return (
        f"GET /service-json/{method}?instanceKey={key}&language=ru&sessionId={query} HTTP/1.1\r\n"
        f"Host: api.example.com\r\nAccept-Encoding: gzip,deflate\r\n{headers}\r\n"
    ).encode()


def official(key: str) -> bytes:
    """Return a search on official Taobao."""
    xml = (
        "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
        "</SearchItemsParameters>"
    )
    xml = xml.replace("<", "%3C").replace(">", "%3E")
    return get(key, query=f"&xmlParameters={xml}")


async def test_a_call_reaches_the_upstream_and_its_answer_the_client(path: Rig, upstream: Origin) -> None:
    """The target and the answer's body pass byte for byte, and the call is counted under method and class."""
    key = await path.add_key()
    got = await path.send(get(key))
    assert (got.status, got.body) == (200, OK_JSON)
    assert upstream.received[0].target == get(key).split(b" ")[1]
    counts = await path.counts(key)
    assert counts["c:SearchItemsFrame|search"] == counts["t:SearchItemsFrame|search"] == counts["used"] == 1
    assert "w:SearchItemsFrame|search" not in counts


async def test_a_clock_that_is_set_back_leaves_no_refusal_behind(path: Rig, upstream: Origin) -> None:
    """What was judged by a clock that was ahead ends with it: a key is neither closed nor unknown for it."""
    path.now = 1_790_000_000.0
    closing = await path.add_key(closed_at=path.now + 3600)
    later = keys.issue(os.urandom(16))
    path.now += 86_400
    for key in (closing, later):
        assert json.loads((await path.send(get(key))).body)["ErrorCode"] == "AccessDenied"
    path.now -= 86_400
    await path.add_key(later)
    async with asyncio.timeout(5):
        for key in (closing, later):
            while (await path.send(get(key))).body != OK_JSON:
                await asyncio.sleep(0.05)


async def test_hop_by_hop_and_spoofed_fields_do_not_travel(path: Rig, upstream: Origin) -> None:
    """Connection-listed, forwarding and gateway fields are dropped; the gateway writes its own."""
    key = await path.add_key()
    spoofed = (
        "Connection: keep-alive, X-Secret-Hop",
        "X-Secret-Hop: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "X-Forwarded-For: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Tallygate-Key: admin",
        "X-Request-Id: mine",
        "X-Kept: yes",
        "Proxy-Authorization: x",
    )
    await path.send(get(key, headers="".join(f"{line}\r\n" for line in spoofed)))
    seen = upstream.received[0]
    names = {name.lower() for name, _ in seen.headers}
    assert names == {
        b"host",
        b"accept-encoding",
        b"x-kept",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-request-id",
    }
    assert seen.header(b"x-forwarded-for") == b"127.0.0.1"
    assert seen.header(b"host") == f"127.0.0.1:{upstream.port}".encode()
    assert seen.header(b"x-request-id") != b"mine"


async def test_a_form_post_is_identified_by_its_body(path: Rig, upstream: Origin) -> None:
    """An old shop's POST passes with its body byte for byte."""
    key = await path.add_key()
    body = f"instanceKey={key}&language=ru&itemId=520&sessionId=".encode()
    got = await path.send(
        b"POST /OtapiWebService2.asmx/GetItemFullInfo HTTP/1.1\r\nHost: a\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert got.status == 200
    assert upstream.received[0].body == body
    assert (await path.counts(key))["c:GetItemFullInfo|item"] == 1


@pytest.mark.parametrize(
    ("method", "body", "units"),
    [
        ("GetItemFullInfo", b'{"a": "b"}', 1),
        ("GetItemFullInfo", b'{"ForceUpdate": true}', 5),
        ("GetItemFullInfo", b'{"ForceUpdate": true, "Provider": "Pinduoduo"}', 25),
        ("GetVendorInfo", b'{"ForceUpdate": true}', 1),
    ],
)
async def test_a_call_costs_the_same_in_one_piece_and_in_two(
    path: Rig, upstream: Origin, method: str, body: bytes, units: int
) -> None:
    """What a body of any type mentions decides on the cost, not whether it came together with the head."""
    whole, parted = await path.add_key(), await path.add_key()
    for key in (whole, parted):
        head = (
            f"POST /service-json/{method}?instanceKey={key} HTTP/1.1\r\nHost: a\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        if key == whole:
            assert (await path.send(head + body)).status == 200
            continue
        async with path.client() as client:
            client.writer.write(head)
            await client.writer.drain()
            await asyncio.sleep(0.1)
            assert (await client.send(body)).status == 200
    assert [seen.body for seen in upstream.received] == [body, body]
    assert [(await path.counts(key))["used"] for key in (whole, parted)] == [units, units]


async def test_a_chunked_form_post_is_read_whole(path: Rig, upstream: Origin) -> None:
    """Chunks are joined before the key is looked for, and the upstream gets the same bytes with a length."""
    key = await path.add_key()
    body = f"instanceKey={key}&itemId=520".encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    got = await path.send(
        b"POST /service/GetItemFullInfo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + chunks
    )
    assert got.status == 200
    assert upstream.received[0].body == body
    assert upstream.received[0].header(b"content-length") == str(len(body)).encode()


async def test_unknown_missing_and_mistyped_keys_are_refused(path: Rig, upstream: Origin) -> None:
    """No key, an unknown key and a key with a wrong checksum get the dialect's AccessDenied, and nothing is
    forwarded."""
    key = await path.add_key()
    for wrong in ("", "nobody-knows-this-key", key[:-1] + ("0" if key[-1] != "0" else "1")):
        got = await path.send(get(wrong))
        assert got.status == 200
        assert got.body.startswith(b'{"ErrorCode":"AccessDenied"')
    assert upstream.received == []


async def test_the_quota_is_exact_and_its_fields_tell_what_is_left(path: Rig, upstream: Origin) -> None:
    """With a limit of 2 the third call gets CallLimit with Retry-After; the RateLimit fields count down."""
    path.now = midnight(date(2026, 3, 10), path.settings.contract.zone) + 86_400 - 100
    key = await path.add_key(daily_limit=2)
    answers = [await path.send(get(key)) for _ in range(3)]
    assert [a.header("ratelimit") for a in answers] == [
        '"day";r=1;t=101',
        '"day";r=0;t=101',
        '"day";r=0;t=101',
    ]
    assert answers[0].header("ratelimit-policy") == '"day";q=2;w=86400'
    assert answers[2].json()["ErrorCode"] == "CallLimit"
    assert answers[2].header("retry-after") == "101"
    counts = await path.counts(key)
    assert (counts["used"], counts["d:quota_exceeded"], len(upstream.received)) == (2, 1, 2)


async def test_the_next_day_begins_at_midnight_of_the_billing_timezone(path: Rig) -> None:
    """A call one second before local midnight and one at midnight are counted on different days."""
    begins = midnight(date(2026, 3, 11), path.settings.contract.zone)
    key = await path.add_key(daily_limit=1)
    codes = []
    for now in (begins - 1, begins - 0.001, begins):
        path.now = now
        codes.append((await path.send(get(key))).json()["ErrorCode"])
    assert codes == ["Ok", "CallLimit", "Ok"]


async def test_a_rolling_window_frees_calls_a_day_later(path: Rig) -> None:
    """With `rolling_24h` a unit comes back between 24 h and 24 h 10 min after it was taken."""
    noon = midnight(date(2026, 3, 10), path.settings.contract.zone) + 12 * 3600
    key = await path.add_key(daily_limit=1, window=Window.ROLLING_24H)
    codes = []
    for now in (noon, noon + 86_399, noon + 86_400 + 599, noon + 86_400 + 600):
        path.now = now
        got = await path.send(get(key))
        codes.append(got.json()["ErrorCode"])
        if codes[-1] == "CallLimit":
            assert int(got.header("retry-after") or 0) == noon + 86_400 + 600 - now
    assert codes == ["Ok", "CallLimit", "CallLimit", "Ok"]


async def test_a_restricted_key_keeps_official_search_and_items(path: Rig) -> None:
    """From 00:00 of D+8 search is refused but official Taobao search and items go on; from D+22 nothing does
    (OT-8, OT-10)."""
    zone = path.settings.contract.zone
    key = await path.add_key(oldest_unpaid_issued_on=date(2026, 3, 2))

    async def codes() -> list[str]:
        requests = (get(key), official(key), get(key, "GetItemFullInfo"))
        return [(await path.send(request)).json()["ErrorCode"] for request in requests]

    path.now = midnight(date(2026, 3, 10), zone) - 0.5
    assert await codes() == ["Ok", "Ok", "Ok"]
    path.now = midnight(date(2026, 3, 10), zone)
    assert await codes() == ["ContractViolation", "Ok", "Ok"]
    path.now = midnight(date(2026, 3, 24), zone) - 0.5
    assert await codes() == ["ContractViolation", "Ok", "Ok"]
    path.now = midnight(date(2026, 3, 24), zone)
    assert await codes() == ["InstanceKeyBan", "InstanceKeyBan", "InstanceKeyBan"]
    await path.change_key(key, oldest_unpaid_issued_on=None)
    assert await codes() == ["Ok", "Ok", "Ok"]
    counts = await path.counts(key)
    assert (counts["d:restricted"], counts["d:banned"]) == (2, 3)
    assert counts["c:SearchItemsFrame|official_search"] == 4


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"suspended": True}, "AccessDenied"),
        ({"revoked_at": 1.0}, "AccessDenied"),
        ({"closed_at": 1.0}, "AccessDenied"),
        ({"daily_limit": 0}, "CallLimit"),
        ({"oldest_unpaid_issued_on": date(2020, 1, 1)}, "InstanceKeyBan"),
        ({"credentials": {}}, "AccessDenied"),
    ],
)
async def test_a_change_of_the_key_holds_from_the_very_next_call(
    path: Rig, change: dict[str, object], code: str
) -> None:
    """A cached key obeys a change at once, and obeys its reversal at once."""
    key = await path.add_key()
    before = {name: getattr(path.records[key], name) for name in change}
    assert (await path.send(get(key))).json()["ErrorCode"] == "Ok"
    await path.change_key(key, **change)
    assert (await path.send(get(key))).json()["ErrorCode"] == code
    assert (await path.send(get(key))).json()["ErrorCode"] == code
    await path.change_key(key, **before)
    assert (await path.send(get(key))).json()["ErrorCode"] == "Ok"


async def test_an_error_code_is_waived_and_gives_the_quota_back(path: Rig, upstream: Origin) -> None:
    """ErrorCode other than Ok and BatchError is not charged; BatchError is (OT-15)."""
    key = await path.add_key(daily_limit=1)
    upstream.reply = answer(ERROR_JSON)
    for _ in range(3):
        assert (await path.send(get(key))).body == ERROR_JSON
        await until(lambda: path.proxy.counters.pending == 0)
    upstream.reply = answer(b'{"ErrorCode":"BatchError"}')
    await path.send(get(key))
    counts = await path.counts(key)
    assert (counts["t:SearchItemsFrame|search"], counts["w:SearchItemsFrame|search"]) == (4, 3)
    assert (counts["used"] - counts["back"], counts["v:error_code"]) == (1, 3)
    assert (await path.send(get(key))).json()["ErrorCode"] == "CallLimit"


async def test_an_unreachable_upstream_is_waived(redis: object, valkey_url: str) -> None:
    """A call that finds no upstream gets NotAvailable in its dialect and costs nothing."""
    from tests.rig import rig

    async with rig(valkey_url, 1) as path:
        key = await path.add_key()
        got = await path.send(get(key))
        assert got.json()["ErrorCode"] == "NotAvailable"
        counts = await path.counts(key)
        assert counts["w:SearchItemsFrame|search"] == counts["v:upstream_unreachable"] == counts["back"] == 1


async def test_a_slow_upstream_times_out_and_is_waived(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """No answer within the upstream's patience is a waived failure, and its connection is closed."""
    import dataclasses

    from tests.rig import example_settings, rig

    settings = example_settings(upstream.port)
    quick = {u: dataclasses.replace(u, answer_timeout_s=0.3) for u in settings.upstreams}
    settings = dataclasses.replace(
        settings,
        upstreams=tuple(quick.values()),
        routes=tuple(dataclasses.replace(r, upstream=quick[r.upstream]) for r in settings.routes),
    )

    async def never(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(1) == b""
        writer.close()
        upstream.aborted.set()

    upstream.act = never
    async with rig(valkey_url, upstream, settings) as path:
        key = await path.add_key()
        got = await path.send(get(key))
        assert got.json()["ErrorCode"] == "NotAvailable"
        assert (await path.counts(key))["v:upstream_timeout"] == 1
        async with asyncio.timeout(1):
            await upstream.aborted.wait()


async def test_an_upstream_that_dies_before_its_answer_is_waived_and_not_asked_twice(
    path: Rig, upstream: Origin
) -> None:
    """A connection that breaks under a request fails the call; the request is not sent again."""

    async def die(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    upstream.act = die
    key = await path.add_key()
    assert (await path.send(get(key))).json()["ErrorCode"] == "NotAvailable"
    assert len(upstream.received) == 1
    assert (await path.counts(key))["v:upstream_unreachable"] == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_a_truncated_answer_is_truncated_for_the_client(
    path: Rig, upstream: Origin, framing: bytes
) -> None:
    """An answer that breaks off breaks off for the client too, and is not charged."""

    async def half(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = OK_JSON[:40]
        body = b"%x\r\n%b\r\n" % (len(start), start) if framing.startswith(b"Transfer") else start
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b\r\n\r\n%b" % (framing, body))
        await writer.drain()
        writer.close()

    upstream.act = half
    key = await path.add_key()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await path.send(get(key))
    assert (await path.counts(key))["v:upstream_broken"] == 1


async def test_a_client_that_left_before_the_answer_is_charged_by_its_outcome(
    path: Rig, upstream: Origin
) -> None:
    """The outcome is awaited without the client: Ok is charged, an error is not (OT-15)."""
    gate = asyncio.Event()

    async def wait(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(upstream.reply)
        await writer.drain()

    upstream.act = wait
    key = await path.add_key()
    for reply, waived in ((answer(), 0), (answer(ERROR_JSON), 1)):
        upstream.reply = reply
        upstream.received.clear()
        gate.clear()
        async with path.client() as client:
            client.writer.write(get(key))
            await until(lambda: upstream.received)
        await asyncio.sleep(0.05)
        gate.set()
        await until(lambda: path.proxy.calls_in_flight == 0)
        counts = await path.counts(key)
        assert counts.get("w:SearchItemsFrame|search", 0) == waived
    assert counts["t:SearchItemsFrame|search"] == 2


async def test_a_client_that_leaves_mid_answer_frees_the_upstream_connection(
    path: Rig, upstream: Origin
) -> None:
    """Once the outcome is known nothing is left to wait for: the upstream sees the connection close within a
    second."""

    async def endless(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(b"%x\r\n%b\r\n" % (len(OK_JSON), OK_JSON))
        try:
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        finally:
            upstream.aborted.set()

    upstream.act = endless
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write(get(key))
        await client.reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(1):
        await upstream.aborted.wait()
    counts = await path.counts(key)
    assert counts["t:SearchItemsFrame|search"] == 1
    assert "w:SearchItemsFrame|search" not in counts


async def test_a_compressed_answer_passes_untouched_and_its_outcome_is_read(
    path: Rig, upstream: Origin
) -> None:
    """Gzip is not undone for the client, but read for the outcome."""
    key = await path.add_key()
    for body, waived in ((OK_JSON, 0), (ERROR_JSON, 1)):
        packed = gzip.compress(body)
        upstream.reply = answer(packed, headers=b"Content-Encoding: gzip\r\n")
        got = await path.send(get(key))
        assert got.body == packed
        assert got.header("content-encoding") == "gzip"
        assert (await path.counts(key)).get("w:SearchItemsFrame|search", 0) == waived


async def test_only_codings_whose_outcome_can_be_read_are_asked_for(path: Rig, upstream: Origin) -> None:
    """Brotli and zstd are taken off the client's offer, as the outcome could not be read in them."""
    key = await path.add_key()
    request = get(key).replace(b"gzip,deflate", b"br, gzip;q=0.8, zstd")
    await path.send(request)
    assert upstream.received[0].header(b"accept-encoding") == b"gzip;q=0.8"


async def test_forced_updates_cost_five_and_twenty_five_on_pinduoduo(path: Rig, upstream: Origin) -> None:
    """ForceUpdate takes five units, Pinduoduo's twenty-five, from the count and the quota (OT-15)."""
    key = await path.add_key()
    force = "&itemParameters=%3CItemParameters%3E%3CForceUpdate%3Etrue%3C/ForceUpdate%3E%3C/ItemParameters%3E"
    await path.send(get(key, "GetItemFullInfo", force + "&itemId=520"))
    assert (await path.counts(key))["used"] == 5
    await path.send(get(key, "GetItemFullInfo", force + "&itemId=pdd-520"))
    counts = await path.counts(key)
    assert (counts["used"], counts["c:GetItemFullInfo|item"], counts["t:GetItemFullInfo|item"]) == (30, 2, 30)


async def test_a_bulk_result_costs_one_call_an_item(path: Rig, upstream: Origin) -> None:
    """The items of a bulk result are counted in the answer and charged beyond what was taken (OT-15)."""
    key = await path.add_key()
    items = [{"Id": str(number)} for number in range(7)]
    upstream.reply = answer(json.dumps({"ErrorCode": "Ok", "Result": {"Items": items}}).encode())
    await path.send(get(key, "GetBulkItemsResult"))
    counts = await path.counts(key)
    assert sum(value for name, value in counts.items() if name.startswith("t:GetBulkItemsResult")) == 7


async def test_items_are_counted_on_a_rest_route_whatever_the_client_offers(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """An answer that costs by the item is asked for whole, and in a coding that items can be counted in."""
    settings = example_settings(upstream.port)
    bulk = MethodRule(("GET /rest/bulk",), "bulk", billable=True, cost=0, cost_items="items")
    table = MethodTable((bulk, *settings.methods.rules))
    upstream.reply = answer(b'{"items": [1, 2, 3]}')
    async with rig(valkey_url, upstream, dataclasses.replace(settings, methods=table)) as path:
        key = await path.add_key()
        for target in ("bulk", "items"):
            await path.send(
                f"GET /rest/{target} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n"
                "Accept-Encoding: br, gzip\r\nRange: bytes=1-\r\n\r\n".encode()
            )
        assert (await path.counts(key))["used"] == 4
    seen, plain = upstream.received
    assert (seen.header(b"accept-encoding"), seen.header(b"range")) == (b"gzip", None)
    assert (plain.header(b"accept-encoding"), plain.header(b"range")) == (b"br, gzip", b"bytes=1-")


async def test_a_bulk_result_needs_a_unit_that_is_left(path: Rig, upstream: Origin) -> None:
    """With nothing left no result is fetched; with one unit left it is, whole, and no other one (OT-1)."""
    nothing, one = await path.add_key(daily_limit=0), await path.add_key(daily_limit=1)
    items = json.dumps({"ErrorCode": "Ok", "Result": {"Items": [{}, {}, {}]}}).encode()
    upstream.reply = answer(items)
    codes = [
        (await path.send(get(key, "GetBulkItemsResult"))).json()["ErrorCode"] for key in (nothing, one, one)
    ]
    assert codes == ["CallLimit", "Ok", "CallLimit"]
    assert (await path.counts(one))["used"] == 3


async def test_an_unknown_method_is_refused(path: Rig, upstream: Origin) -> None:
    """Where the route says that methods must be known, others are not forwarded."""
    key = await path.add_key()
    got = await path.send(get(key, "DropAllTables"))
    assert got.json()["ErrorCode"] == "NotFound"
    assert upstream.received == []


async def test_raw_cyrillic_reaches_the_upstream_as_it_came(path: Rig, upstream: Origin) -> None:
    """Old clients write spaces, quotes and Cyrillic raw into the target; it is read leniently and passed on,
    with its spaces escaped, so that no server takes its beginning for the whole."""
    key = await path.add_key()
    title = '%3CItemTitle%3Eкрасная "кепка" x%3C/ItemTitle%3E'
    xml = f"%3CSearchItemsParameters%3E{title}%3C/SearchItemsParameters%3E"
    request = get(key, query=f"&xmlParameters={xml}")
    assert b' "' in request
    got = await path.send(request)
    assert got.status == 200
    line = upstream.received[0].line
    assert line == escaped(request)


async def test_a_spaced_request_line_in_pieces_is_put_together(path: Rig, upstream: Origin) -> None:
    """The line may come in any pieces."""
    key = await path.add_key()
    request = get(key, query="&xmlParameters=%3Ca%3Eb c d%3C/a%3E")
    async with path.client() as client:
        for cut in range(0, len(request), 9):
            client.writer.write(request[cut : cut + 9])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.read()).status == 200
    assert upstream.received[0].line == escaped(request)


def escaped(request: bytes) -> bytes:
    """Return a request's line with the spaces of its target escaped."""
    method, _, rest = request.split(b"\r\n")[0].partition(b" ")
    target, _, version = rest.rpartition(b" ")
    return b" ".join((method, target.replace(b" ", b"%20"), version))


async def test_two_requests_in_one_line_are_not_taken(path: Rig, upstream: Origin) -> None:
    """A target with a version in it is refused, whatever its spaces."""
    key = await path.add_key()
    got = await path.send(get(key).replace(b" HTTP/1.1", b" HTTP/1.1 HTTP/1.1", 1))
    assert got.status == 400
    assert upstream.received == []


async def test_the_access_log_tells_a_call_without_its_key(path: Rig) -> None:
    """Each call is one JSON line with the key's id; the key itself is in no line."""
    key = await path.add_key()
    await path.send(get(key))
    await path.send(get(key, "Nonsense"))
    path.proxy._access_log.flush()
    lines = [json.loads(line) for line in path.log.getvalue().splitlines()]
    assert [line["result"] for line in lines] == ["answered", "unknown_method"]
    assert lines[0]["key"] == path.records[key].key_id
    assert lines[0]["method"] == "SearchItemsFrame"
    assert key not in path.log.getvalue()


async def test_calls_go_on_where_they_cannot_be_logged(path: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk lines are lost and nothing else; that is told, and the log goes on with whole lines."""
    key = await path.add_key()

    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with capture_logs() as told, monkeypatch.context() as disk:
        disk.setattr(path.log, "write", full)
        async with path.client() as client:
            for _ in range(BATCH_LINES + 2):
                assert (await client.send(get(key))).json()["ErrorCode"] == "Ok"
        path.proxy._access_log.flush()
        disk.undo()
        await path.send(get(key))
        path.proxy._access_log.flush()
    events = [event["event"] for event in told if "logged" in event["event"]]
    assert events == ["calls cannot be logged, and go on", "calls are logged again"]
    assert [event["lost"] for event in told if "lost" in event] == [BATCH_LINES + 2]
    (line,) = path.log.getvalue().split()
    assert json.loads(line)["result"] == "answered"


async def test_a_hundred_of_a_thousand_simultaneous_calls_are_granted(path: Rig, upstream: Origin) -> None:
    """A limit of 100 lets exactly 100 of 1,000 calls at once through."""
    key = await path.add_key(daily_limit=100)

    async def ten() -> list[str]:
        async with path.client() as client:
            return [(await client.send(get(key))).json()["ErrorCode"] for _ in range(10)]

    codes = [code for batch in await asyncio.gather(*(ten() for _ in range(100))) for code in batch]
    assert (codes.count("Ok"), codes.count("CallLimit"), len(upstream.received)) == (100, 900, 100)
    counts = await path.counts(key)
    assert (counts["used"], counts["d:quota_exceeded"]) == (100, 900)
