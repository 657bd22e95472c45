"""Requests as they come in: one whose header lines repeat the last one's is read as any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.failures import Failure
from gateway.proxy.incoming import PLAIN_BYTES
from gateway.proxy.request_reader import RequestReader

FIELDS = b"Host: a.example\r\nAccept: */*\r\nX-Two: 1\r\nX-Two: 2 \r\n\r\n"
FIRST = b"GET /one HTTP/1.1\r\n" + FIELDS
Told = list[tuple[object, ...]]


def reader() -> RequestReader:
    """Return a reader with small bounds."""
    return RequestReader(1024, 20)


def read(one: RequestReader, data: bytes) -> tuple[Failure | None, bool, Told]:
    """Feed a reader, and return all that it tells."""
    failure = one.feed(data)
    told: Told = [
        (each.method, each.target, each.headers, each.version, each.keep_alive, each.upgrade, each.whole)
        for each in one.requests
    ]
    one.requests.clear()
    return failure, one.in_head, told


def in_turn(*pieces: bytes) -> list[tuple[Failure | None, bool, Told]]:
    """Read pieces on one connection."""
    one = reader()
    return [read(one, piece) for piece in pieces]


def test_header_lines_that_repeat_are_told_by_the_same_object() -> None:
    """From the second request on the fields are those of the first, and the rest is its own."""
    one = reader()
    heads = []
    for target in (b"/one", b"/two?x=%20", b"/three"):
        assert one.feed(b"POST %b HTTP/1.1\r\n%b" % (target, FIELDS)) is None
        heads.append(one.requests.popleft())
        assert (heads[-1].method, heads[-1].target, heads[-1].whole) == (b"POST", target, True)
    assert heads[0].headers == (
        (b"Host", b"a.example"), (b"Accept", b"*/*"), (b"X-Two", b"1"), (b"X-Two", b"2"),
    )  # fmt: skip
    assert heads[0].headers is heads[1].headers is heads[2].headers


@pytest.mark.parametrize(
    "second",
    [
        b"HEAD /two HTTP/1.1\r\n" + FIELDS,
        b"GET /two?a=1&b=%2F+c HTTP/1.1\r\n" + FIELDS,
        b"GET /two?a#b HTTP/1.1\r\n" + FIELDS,
        b"GET /two\tb HTTP/1.1\r\n" + FIELDS,
        b"GET /two\x01 HTTP/1.1\r\n" + FIELDS,
        b"GET /two\x7f HTTP/1.1\r\n" + FIELDS,
        b"GET /two\xff HTTP/1.1\r\n" + FIELDS,
        b"GET  /two HTTP/1.1\r\n" + FIELDS,
        b"GET /two  HTTP/1.1\r\n" + FIELDS,
        b"GET /two HTTP/1.1 \r\n" + FIELDS,
        b"GET /two http/1.1\r\n" + FIELDS,
        b"GET / HTTP/1.1\r\n" + FIELDS,
        b"GET /HTTP/1.1\r\n" + FIELDS,
        b"GET /HTTP/1.1 HTTP/1.1\r\n" + FIELDS,
        b"GET HTTP/1.1\r\n" + FIELDS,
        b"GET two HTTP/1.1\r\n" + FIELDS,
        b"GET * HTTP/1.1\r\n" + FIELDS,
        b"GET /two HTTP/1.0\r\n" + FIELDS,
        b"GET /two HTTP/2.0\r\n" + FIELDS,
        b"GET /two\r\n" + FIELDS,
        b"GET /a b HTTP/1.1\r\n" + FIELDS,
        "GET /я HTTP/1.1\r\n".encode() + FIELDS,
        b"get /two HTTP/1.1\r\n" + FIELDS,
        b"FOO /two HTTP/1.1\r\n" + FIELDS,
        b"CONNECT a.example:80 HTTP/1.1\r\n" + FIELDS,
        b"GET http://b.example/ HTTP/1.1\r\n" + FIELDS,
        b"\r\nGET /two HTTP/1.1\r\n" + FIELDS,
        b"\nGET /two HTTP/1.1\r\n" + FIELDS,
        b"\rGET /two HTTP/1.1\r\n" + FIELDS,
        b"GET /two HTTP/1.1\n" + FIELDS,
        b"GET /two HTTP/1.1\r\r\n" + FIELDS,
        b"GET /two HTTP/1.1\r\nX-Three: 3\r\n" + FIELDS,
        b"GET /two HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + FIELDS,
        b"GET /two HTTP/1.1\r\nContent-Length: 3\r\n" + FIELDS,
        b"GET /two HTTP/1.1\r\n " + FIELDS,
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n" + FIELDS,
        b"GET /" + b"a" * 950 + b" HTTP/1.1\r\n" + FIELDS,
        FIELDS,
        FIRST + FIRST,
        FIRST[:40],
        b"",
        b"\r\n",
    ],
)
def test_what_follows_is_read_as_without_a_memory(second: bytes) -> None:
    """Whatever comes behind a request whose lines are remembered, and whatever then comes, tells the same."""
    known, forgetful = reader(), reader()
    for piece in (FIRST, FIRST, second, FIRST, FIRST):
        expected = read(forgetful, piece)
        forgetful._lines, forgetful._repeated = b"", None
        assert read(known, piece) == expected
        if expected[0] is not None:
            break


ONE_DOT_ZERO = b"Host: a.example\r\nConnection: keep-alive, close\r\n\r\n"


@pytest.mark.parametrize("first", [b"GET /one HTTP/1.0\r\n", b"POST /one HTTP/1.1\r\n"])
def test_a_line_is_not_plain_behind_another_method_or_version(first: bytes) -> None:
    """What the same fields say of the connection may be another thing there, and is read anew."""
    for fields in (FIELDS, ONE_DOT_ZERO):
        pieces = (first + fields, b"GET /two HTTP/1.1\r\n" + fields, FIRST)
        known, forgetful = reader(), reader()
        for piece in pieces:
            forgetful._lines, forgetful._repeated = b"", None
            assert read(known, piece) == read(forgetful, piece)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"GET ", b"/", b" HTTP/1.1", b"\r\n", b"?", b"#", b" ", b"%", b"HEAD "]),
            st.binary(max_size=3),
        ),
        max_size=8,
    ).map(b"".join),
    st.booleans(),
)
def test_generated_lines_are_read_as_without_a_memory(text: bytes, in_line: bool) -> None:
    """Any bytes before fields that are known are the same request, or the same refusal."""
    line = b"GET /" + text + b" HTTP/1.1\r\n" if in_line else text
    known, forgetful = reader(), reader()
    for piece in (FIRST, line + FIELDS, FIRST):
        forgetful._lines, forgetful._repeated = b"", None
        expected = read(forgetful, piece)
        assert read(known, piece) == expected
        if expected[0] is not None:
            break


def test_a_line_of_plain_bytes_is_read_without_the_parser() -> None:
    """Each of them may stand in a target for llhttp too, and every other byte is left to it."""
    one = reader()
    read(one, FIRST)
    for byte in range(256):
        if bytes((byte,)) in (b"\n", b" "):
            continue
        target = b"/a" + bytes((byte,)) + b"b"
        piece = b"GET " + target + b" HTTP/1.1\r\n" + FIELDS
        one, fresh = reader(), reader()
        read(one, FIRST)
        failure = one.feed(piece)
        if byte in PLAIN_BYTES:
            assert failure is None
            assert (one.requests[0].plain_target, one.requests[0].target) == (True, target)
        else:
            assert not any(each.plain_target for each in one.requests)
        one.requests.clear()
        assert fresh.feed(piece) == failure


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
        FIRST + FIRST,
    ],
)
def test_only_plain_heads_are_remembered(first: bytes) -> None:
    """Where the connection ends, a body follows, or there is too much of it, nothing is kept."""
    one = RequestReader(16_384, 20)
    one.feed(first)
    assert one._lines == b""


@pytest.mark.parametrize("cut", [lambda at: at, lambda at: len(FIRST) - at], ids=["begin", "end"])
def test_heads_in_pieces_are_read_after_repeated_ones(cut: Callable[[int], int]) -> None:
    """A head that comes in two pieces is one request, wherever it is cut."""
    for at in range(1, 40):
        here = cut(at)
        [*_, first, second] = in_turn(FIRST, FIRST, FIRST[:here], FIRST[here:])
        assert first[2] == []
        assert second == in_turn(FIRST)[0]


def body_of(body: bytes) -> bytes:
    """Return the head of a request that has this body."""
    return b"POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(body)


@pytest.mark.parametrize("skipped", [b"x\r\nTransfer-Encoding: chunked\r\nX-One: ", b"\r\r\n"])
def test_lines_are_remembered_from_the_first_byte_of_a_request_only(skipped: bytes) -> None:
    """What stands before it, such as the end of a body, is nothing that later requests repeat."""
    one = reader()
    if skipped.strip():
        read(one, body_of(skipped))
    failure, _, told = read(one, skipped + FIRST)
    assert (failure, told) == in_turn(FIRST)[0][::2]
    second = b"GET /two HTTP/1.1\r\n" + skipped[3:] + FIRST
    assert read(one, second) == read(reader(), second)


SPACED = b"DELETE /a b HTTP/1.1\r\nHost: a.example\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "behind"),
    [
        (SPACED, (b"!",)),
        (SPACED, (b"G", b"!")),
        (SPACED[:-4], (b"G", b"!", b"\r\n\r\n")),
        (b"DELETE /two?", (b"GET /a b HTTP/1.1\r\n" + FIELDS,)),
        (b"DELETE /two?", (b"GET /a", b" b HTTP/1.1\r\n" + FIELDS)),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_no_part_of_a_body_becomes_a_request(body: bytes, behind: tuple[bytes, ...], at_once: bool) -> None:
    """Not even where what follows is no request that the parser takes, and comes in one piece with it."""
    head, (first, *rest) = body_of(body), behind
    pieces = (head + body + first, *rest) if at_once else (head, body + first, *rest)
    told = []
    for failure, _, requests in in_turn(*pieces):
        told += [each[:2] for each in requests]
        if failure is not None:
            break
    else:
        pytest.fail("nothing was refused")
    assert told == [(b"POST", b"/p")]


def test_a_body_is_no_part_of_the_head_behind_it() -> None:
    """However long it is; the head itself is bounded as any other."""
    body = b"a" * 5000
    pieces = (body_of(body), body + FIRST[:10], FIRST[10:])
    [_, begun, whole] = in_turn(*pieces)
    assert (begun, whole) == ((None, True, []), in_turn(FIRST)[0])
    long = FIRST[:-2] + b"X: %b\r\n" % (b"x" * 1020)
    assert in_turn(body_of(body), body + long, b"\r\n")[-1][0] is Failure.HEAD_TOO_LARGE


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_raw_target_is_read_behind_a_head_whose_end_came_in_two_pieces(cut: int) -> None:
    """What has come of the later head is known to the byte."""
    spaced = b"GET /a b HTTP/1.1\r\n" + FIELDS
    [*_, last] = in_turn(FIRST[:-cut], FIRST[-cut:] + spaced[:2], spaced[2:])
    assert last == in_turn(spaced)[0]
