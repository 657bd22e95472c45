"""Which header fields travel on."""

from __future__ import annotations

import pytest

from gateway.proxy.answers import read_answer_head
from gateway.proxy.headers import (
    connection_options,
    end_to_end,
    is_host,
    request_fields,
    status_line,
)

NONE: frozenset[bytes] = frozenset()


def test_fields_pass_in_their_order_and_bytes() -> None:
    """Names keep their letter case and values their bytes, doubled fields included."""
    fields = [(b"X-B", b"1"), (b"x-a", "я".encode()), (b"X-B", b"2")]
    assert request_fields(fields, readable=False) == "X-B: 1\r\nx-a: я\r\nX-B: 2\r\n".encode()


@pytest.mark.parametrize(
    "name",
    [b"Connection", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade", b"Keep-Alive", b"Proxy-Connection",
     b"Content-Length", b"Host", b"Expect", b"Forwarded", b"X-Forwarded-For", b"X-REAL-IP", b"X-Request-ID",
     b"X-Tallygate-Anything"],
)  # fmt: skip
def test_fields_of_the_hop_and_the_gateway_stay_behind(name: bytes) -> None:
    """A client's hop-by-hop, framing, forwarding and gateway fields are dropped, at the first sight and
    later."""
    assert request_fields([(name, b"x")], readable=False) == b""
    assert request_fields([(name, b"x")], readable=False) == b""


@pytest.mark.parametrize(
    "name", [b"Connection", b"Content-Length", b"RateLimit", b"ratelimit-policy", b"X-Tallygate-Key"]
)
def test_an_answers_own_fields_are_written_anew(name: bytes) -> None:
    """An upstream cannot speak in the gateway's name."""
    for _ in range(2):
        head = read_answer_head(200, [(name, b"x"), (b"Set-Cookie", b"a")], http_11=True)
        assert b"".join(head.pieces) == b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\n"


def test_listed_options_end_here() -> None:
    """Names listed in any Connection field are found, whatever their case."""
    headers = [(b"connection", b"close, X-One"), (b"X-One", b"1"), (b"CONNECTION", b"x-two")]
    assert connection_options(headers) == {b"close", b"x-one", b"x-two"}
    assert request_fields(end_to_end(headers, connection_options(headers)), readable=False) == b""


def test_names_with_underscores_end_here() -> None:
    """No server is left to take `X_Forwarded_For` for `X-Forwarded-For`, and nothing is identified by it."""
    assert end_to_end([(b"X_Forwarded_For", b"1"), (b"a", b"_"), (b"Content_Length", b"2")], NONE) == (
        (b"a", b"_"),
    )


@pytest.mark.parametrize(
    ("offered", "asked"),
    [(b"gzip, deflate", b"gzip, deflate"), (b"gzip,br", b"gzip"), (b"br", b"identity"), (b"*", b"identity"),
     (b"zstd;q=1, gzip;q=0.5", b"gzip;q=0.5")],
)  # fmt: skip
def test_codings_that_cannot_be_read_are_not_asked_for(offered: bytes, asked: bytes) -> None:
    """Only gzip, deflate and identity go on where an outcome is read from the body."""
    for _ in range(2):
        assert request_fields([(b"Accept-Encoding", offered)], readable=True) == (
            b"Accept-Encoding: %b\r\n" % asked
        )
    assert request_fields([(b"Accept-Encoding", offered)], readable=False) == (
        b"Accept-Encoding: %b\r\n" % offered
    )


@pytest.mark.parametrize("host", [b"a", b"a.example:8080", b"127.0.0.1", b"[::1]:80"])
def test_hosts_are_taken(host: bytes) -> None:
    """Names and addresses with an optional port are hosts."""
    assert is_host(host)


@pytest.mark.parametrize("host", [b"", b"a b", b"a/b", b"a@b", b"a,b", b"[::1", b"a:b", b"a\x00"])
def test_what_is_no_host_is_not_taken(host: bytes) -> None:
    """Anything an origin could read as another host is none."""
    assert not is_host(host)


def test_status_lines_have_registered_phrases() -> None:
    """The phrase never comes from an upstream."""
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(299) == b"HTTP/1.1 299 \r\n"


def test_an_answer_whose_outcome_is_read_is_asked_for_whole() -> None:
    """Range goes on only where the outcome does not stand in the body."""
    fields = [(b"Range", b"bytes=9-"), (b"If-Range", b"x")]
    assert request_fields(fields, readable=True) == b""
    assert request_fields(fields, readable=False) == b"Range: bytes=9-\r\nIf-Range: x\r\n"
