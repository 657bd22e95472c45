from __future__ import annotations

import gc
import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import OutcomeReader, read_outcome
from gateway.settings import Dialect
from policies.waiver import Waiver

GOOD_JSON = b'{"ErrorCode":"Ok","SubErrorCode":null,"ErrorDescription":null,"Result":{"Items":[1]}}'
GOOD_XML = (
    b'<?xml version="1.0" encoding="utf-8"?>'
    b"<OtapiAnswer><ErrorCode>Ok</ErrorCode><Result>1</Result></OtapiAnswer>"
)


def bare_deflate(data: bytes) -> bytes:
    """Compress without zlib's header, as some servers understand `deflate`."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


CODINGS = {
    b"": lambda data: data,
    b"identity": lambda data: data,
    b"gzip": gzip.compress,
    b"x-gzip": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
    b"deflate": zlib.compress,
    b"Deflate": bare_deflate,
}


def reader(
    dialect: Dialect = Dialect.OTAPI, *, status: int = 200, coding: bytes = b"", cost_items: str | None = None
) -> OutcomeReader:
    """Make a reader of an answer's outcome."""
    codings = [coding] if coding else []
    return read_outcome(dialect, status=status, codings=codings, cost_items=cost_items)


def judged(found: OutcomeReader, pieces: Iterable[bytes], *, complete: bool = True) -> Waiver | None:
    """Feed an answer and return the verdict."""
    for piece in pieces:
        found.feed(piece)
    found.finish(complete)
    assert found.known
    return found.verdict


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (GOOD_JSON, None),
        (GOOD_XML, None),
        (GOOD_JSON.replace(b'"Ok"', b'"BatchError"'), None),
        (GOOD_XML.replace(b">Ok<", b">BatchError<"), None),
        (b'\xef\xbb\xbf {\r\n  "ErrorCode" : "Ok",\r\n "Result": null }', None),
        (b"\xef\xbb\xbf" + GOOD_XML, None),
        (
            GOOD_XML.replace(b"<OtapiAnswer>", b'<A xmlns="urn:x">\r\n').replace(b"</OtapiAnswer>", b"</A>"),
            None,
        ),
        (b"<s:Envelope><s:Body><R><x:ErrorCode>Ok</x:ErrorCode></R></s:Body></s:Envelope>", None),
        (GOOD_JSON.replace(b'"Ok"', b'"ValidationError"'), Waiver.ERROR_CODE),
        (GOOD_XML.replace(b">Ok<", b">NotFound<"), Waiver.ERROR_CODE),
        (GOOD_JSON.replace(b'"Ok"', b'"ok"'), Waiver.ERROR_CODE),
        (GOOD_JSON.replace(b'"Ok"', b'""'), Waiver.ERROR_CODE),
        (b'{"Result":{"ErrorCode":"Ok"}}', Waiver.UPSTREAM_BROKEN),
        (b"<html>maintenance</html>", Waiver.UPSTREAM_BROKEN),
        (b"ErrorCode: Ok", Waiver.UPSTREAM_BROKEN),
        (b"", Waiver.UPSTREAM_BROKEN),
    ],
)
def test_otapi_answers_are_charged_only_on_ok_and_batch_error(
    body: bytes, verdict: Waiver | None, size: int, coding: bytes
) -> None:
    """The first ErrorCode decides, in either format and every coding, in pieces of any size."""
    data = CODINGS[coding](body)
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    assert judged(reader(coding=coding), pieces) is verdict


def test_the_outcome_is_known_from_the_first_bytes() -> None:
    """A verdict does not wait for the answer's end, so a client that leaves later is charged all the same."""
    found = reader()
    found.feed(GOOD_JSON[:18])
    assert found.known
    assert judged(found, [], complete=False) is None


def test_an_answer_that_breaks_off_early_is_waived() -> None:
    """Where the outcome had not arrived yet, the call was not delivered."""
    assert judged(reader(), [GOOD_JSON[:15]], complete=False) is Waiver.UPSTREAM_BROKEN
    assert judged(reader(), [], complete=False) is Waiver.UPSTREAM_BROKEN


@pytest.mark.parametrize("status", [201, 204, 301, 304, 400, 404, 500, 503])
def test_another_status_than_200_is_waived(status: int) -> None:
    """OTAPI and TOP answer 200 always; anything else is the failure of something in between."""
    assert judged(reader(status=status), [GOOD_JSON]) is Waiver.HTTP_STATUS
    assert judged(reader(Dialect.TOP, status=status), [b"{}"]) is Waiver.HTTP_STATUS


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"gzip, br", b"unknown"])
def test_a_coding_that_cannot_be_read_is_waived(coding: bytes) -> None:
    """What the gateway cannot read it does not charge."""
    assert judged(reader(coding=coding), [b"\x1b\x00\x00", b"x"]) is Waiver.UPSTREAM_BROKEN


def test_broken_compression_is_waived() -> None:
    """Data that are not what the coding says carry no outcome."""
    assert judged(reader(coding=b"gzip"), [b"not gzip at all"]) is Waiver.UPSTREAM_BROKEN
    damaged = bytearray(gzip.compress(GOOD_JSON * 100))
    damaged[12:20] = b"\xff" * 8
    assert (
        judged(reader(coding=b"gzip"), [bytes(damaged[:14]), bytes(damaged[14:])]) is Waiver.UPSTREAM_BROKEN
    )


def test_the_search_for_an_outcome_is_bounded() -> None:
    """A body without an ErrorCode in its first kilobytes is given up, and nothing of it is kept."""
    found = reader()
    for _ in range(20):
        found.feed(b"<x>" + b" " * 1021)
    assert found.known
    assert found.verdict is Waiver.UPSTREAM_BROKEN


def test_a_compression_bomb_is_not_inflated() -> None:
    """Of an answer that would grow a thousandfold only the beginning is unpacked."""
    bomb = gzip.compress(GOOD_JSON + b" " * 50_000_000)
    blank = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    try:
        assert judged(reader(coding=b"gzip"), [bomb]) is None
        assert judged(reader(coding=b"gzip"), [blank]) is Waiver.UPSTREAM_BROKEN
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_elements_in_a_bomb_are_not_counted() -> None:
    """Counting stops where an answer inflates as no text does; what it counted until then holds."""
    bomb = gzip.compress(GOOD_JSON.replace(b"[1]", b"[1,2" + b" " * 50_000_000 + b",3]"))
    found = reader(coding=b"gzip", cost_items="Result.Items")
    tracemalloc.start()
    try:
        for start in range(0, len(bomb), 1000):
            found.feed(bomb[start : start + 1000])
        found.finish(True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.verdict, found.items) == (None, 2)
    assert peak < 4_000_000


def test_elements_of_a_dense_answer_are_counted() -> None:
    """A long list that compresses well, as text does, is counted whole."""
    body = GOOD_JSON.replace(b"[1]", b"[" + b",".join(b'{"Id":"abb-%d"}' % n for n in range(200_000)) + b"]")
    found = reader(coding=b"gzip", cost_items="Result.Items")
    found.feed(gzip.compress(body))
    found.finish(True)
    assert found.items == 200_000


def test_an_endless_text_in_a_counted_answer_is_not_kept() -> None:
    """A text that does not end ends the counting, before the worker's memory does."""
    found = reader(cost_items="Result.Items")
    tracemalloc.start()
    try:
        found.feed(GOOD_JSON.replace(b"[1]}}", b'[1],"a":"'))
        for _ in range(1000):
            found.feed(b"x" * 65_536)
        found.finish(True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.items == 1
    assert peak < 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b'{"item_get_response":{"item":{}}}', None),
        (b'{"a":"' + b"x" * 1000 + b'"}', None),
        (b'<?xml version="1.0" encoding="utf-8" ?><item_get_response></item_get_response>', None),
        (b'{"error_response":{"code":7}}', Waiver.ERROR_CODE),
        (b' {\n "error_response" : {}}', Waiver.ERROR_CODE),
        (
            b'<?xml version="1.0" encoding="utf-8" ?>\n<error_response><code>7</code></error_response>',
            Waiver.ERROR_CODE,
        ),
        (b"<error_response/>", None),
        (b"", Waiver.UPSTREAM_BROKEN),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_top_answers_are_waived_on_error_response(body: bytes, verdict: Waiver | None, size: int) -> None:
    """An answer that begins with error_response is an error, in either format."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    assert judged(reader(Dialect.TOP), pieces) is verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, None), (204, None), (302, None), (400, Waiver.HTTP_STATUS), (503, Waiver.HTTP_STATUS)],
)
def test_plain_http_answers_are_judged_by_status(status: int, verdict: Waiver | None) -> None:
    """Elsewhere the HTTP status says whether a call failed."""
    assert judged(reader(Dialect.PROBLEM, status=status), [b"anything"]) is verdict


# -- bulk results


def bulk(items: list[object], *, is_json: bool = True) -> bytes:
    """Return a bulk result with nested lists that must not be counted."""
    if is_json:
        result = {"Other": [1, 2], "Items": items, "Items2": {"Items": [1, 2, 3]}}
        return json.dumps({"ErrorCode": "Ok", "Items": [1], "Result": result}).encode()
    inner = "".join(f"<Item><Id>{n}</Id><Items><Item/></Items></Item>" for n, _ in enumerate(items))
    text = f"<A><ErrorCode>Ok</ErrorCode><Items><Item/></Items><Result><Items>{inner}</Items></Result></A>"
    return text.encode()


ITEMS: list[object] = [{"Id": 1, "Items": [1, 2]}, [1, [2]], "x", 5, None, True, {}]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("size", [1, 100_000])
def test_the_elements_of_a_bulk_result_are_counted(coding: bytes, is_json: bool, size: int) -> None:
    """Every element of the named list counts once, whatever is inside it."""
    data = CODINGS[coding](bulk(ITEMS, is_json=is_json))
    found = reader(coding=coding, cost_items="Result.Items")
    assert judged(found, (data[at : at + size] for at in range(0, len(data), size))) is None
    assert found.items == len(ITEMS)


@given(
    st.lists(
        st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)), max_size=20
    )
)
def test_any_list_is_counted_right(items: list[object]) -> None:
    """The count is the list's length for any content."""
    found = reader(cost_items="Result.Items")
    assert judged(found, [bulk(items)]) is None
    assert found.items == len(items)


def test_a_bulk_result_that_breaks_off_costs_what_was_received() -> None:
    """Items that arrived before the break are received items."""
    data = bulk([{"Id": number, "Text": "x" * 50} for number in range(100)])
    found = reader(cost_items="Result.Items")
    assert judged(found, [data[: len(data) // 2]], complete=False) is None
    assert found.items is not None
    assert 30 < found.items < 70


def test_a_failed_bulk_result_costs_nothing() -> None:
    """Where the call is waived nothing is counted."""
    found = reader(cost_items="Result.Items")
    assert judged(found, [bulk(ITEMS).replace(b'"Ok"', b'"NotFound"')]) is Waiver.ERROR_CODE
    assert found.items is None


def test_bulk_results_are_counted_on_plain_http_routes_too() -> None:
    """The status judges, the list is counted."""
    found = reader(Dialect.PROBLEM, cost_items="items")
    assert judged(found, [b'{"items":[{"a":1},{"a":2}]}']) is None
    assert found.items == 2


def test_a_byte_order_mark_may_come_in_pieces() -> None:
    """An answer is counted behind its mark, however that was split."""
    body = b"\xef\xbb\xbf" + bulk(ITEMS)
    for at in range(1, 5):
        found = reader(Dialect.PROBLEM, cost_items="Result.Items")
        assert judged(found, [body[:at], body[at:]]) is None
        assert found.items == len(ITEMS)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_numbers_of_any_length_are_counted(size: int) -> None:
    """A number that fits into no machine word is an element like others, and one in a text stays a text."""
    body = (
        b'{"ErrorCode":"Ok","Result":{"Items":[%b,-1.%b,1e999,1E-99999,{"\\u1e12345678901234567890":"\\u1234%b"},2]}}'
        % (b"9" * 20, b"1" * 5_000, b"5" * 30)
    )
    assert json.loads(body)
    found = reader(cost_items="Result.Items")
    assert judged(found, (body[at : at + size] for at in range(0, len(body), size))) is None
    assert found.items == 6


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_counted_answer_leaves_nothing_behind(is_json: bool, share: float) -> None:
    """However many bulk answers are counted, whole or broken off, memory does not grow."""
    body = bulk(ITEMS, is_json=is_json)
    body = body[: int(len(body) * share)]

    def count(answers: int) -> None:
        for _ in range(answers):
            judged(reader(cost_items="Result.Items"), [body])
        gc.collect()

    count(200)
    before = psutil.Process().memory_info().rss
    count(5_000)
    assert psutil.Process().memory_info().rss - before < 2_000_000


def test_counting_keeps_no_answer_in_memory() -> None:
    """A result of many megabytes is counted as it passes."""

    def pieces() -> Iterator[bytes]:
        yield b'{"ErrorCode":"Ok","Result":{"Items":['
        yield from itertools.repeat(b'{"Id":"520000001","Title":"' + b"x" * 1000 + b'"},', 10_000)
        yield b"null]}}"

    found = reader(cost_items="Result.Items")
    tracemalloc.start()
    try:
        assert judged(found, pieces()) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.items == 10_001
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE a [<!ENTITY x "y">]><a><ErrorCode>Ok</ErrorCode><Result><Items><b/></Items></Result></a>',
        b"<a><ErrorCode>Ok</ErrorCode>" + b"<b>" * 10_000,
        b'{"ErrorCode":"Ok","Result":{"Items":[1,}',
        b'{"ErrorCode":"Ok","Result":' + b"[" * 100_000,
        b'<?xml version="1.0" encoding="udf-8"?><a><ErrorCode>Ok</ErrorCode><Result><Items/></Result></a>',
        b'<?xml version="1.0" encoding="shift_jis"?><a><ErrorCode>Ok</ErrorCode></a>',
    ],
)
def test_hostile_bulk_results_only_end_the_count(body: bytes) -> None:
    """Declared entities, deep nesting, unknown encodings and bad syntax end the count, never the answer."""
    found = reader(cost_items="Result.Items")
    assert judged(found, [body]) is None
    assert found.items is not None
