"""What balancers say of connections, read from bytes."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.proxy_protocol import V2_START, Header, ProxyProtocolError, read

V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"


def v2(command: int = 0x21, family: int = 0x11, body: bytes | None = None) -> bytes:
    """Return a header of version 2, of TCP over IPv4 unless told otherwise."""
    if body is None:
        body = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + b"\xdc\x04\x01\xbb"
    return V2_START + bytes((command, family)) + len(body).to_bytes(2) + body


ADDRESSES = v2()[16:]
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + b"\xdc\x04\x01\xbb"
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:203.0.113.7") * 2 + b"\xdc\x04\x01\xbb"
SSL = b"\x20\x00\x05\x01\x00\x00\x00\x00"
NO_SSL = b"\x20\x00\x05\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("data", "address", "tls"),
    [
        (V1, "203.0.113.7", False),
        (b"PROXY TCP6 2001:DB8::7 2001:db8::1 1 65535\r\n", "2001:db8::7", False),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", "203.0.113.7", False),
        (b"PROXY UNKNOWN\r\n", None, False),
        (b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n", None, False),
        (v2(), "203.0.113.7", False),
        (v2(body=ADDRESSES + SSL), "203.0.113.7", True),
        (v2(body=ADDRESSES + NO_SSL), "203.0.113.7", False),
        (v2(body=ADDRESSES + b"\x04\x00\x03abc" + SSL), "203.0.113.7", True),
        (v2(family=0x21, body=V6), "2001:db8::7", False),
        (v2(family=0x21, body=MAPPED), "203.0.113.7", False),
        (v2(command=0x20, family=0, body=b""), None, False),
        (v2(command=0x20), None, False),
        (v2(family=0, body=b""), None, False),
        (v2(family=0x31, body=bytes(216)), None, False),
    ],
)
def test_both_versions_are_read(data: bytes, address: str | None, tls: bool) -> None:
    """The client's address is told, and how long the header is, whatever follows it."""
    assert read(data) == Header(len(data), address, tls)
    assert read(data + b"GET / HTTP/1.1\r\n\r\n") == Header(len(data), address, tls)
    for cut in range(len(data)):
        assert read(data[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 65536\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 01 2\r\n",
        b"PROXY TCP4 203.0.113.777 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP5 203.0.113.7 192.0.2.1 1 2\r\n",
        b"PROXY UNKNOWN\n" + b"x" * 200,
        b"PROXY " + b"x" * 200,
        b"PROXY UNKNOWN \x00\r\n",
        b"\r\n\r\n\x00\r\nQUIT\r",
        v2(command=0x22),
        v2(command=0x11),
        v2(family=0x12),
        v2(family=0x11, body=b"\x01\x02"),
        v2(family=0x21),
        V2_START + b"\x21\x11\xff\xff",
        v2(body=ADDRESSES + b"\x20\x00"),
        v2(body=ADDRESSES + b"\x20\x00\x09\x01"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    """What is not exactly a header is none."""
    with pytest.raises(ProxyProtocolError):
        read(data)


STARTS = st.sampled_from([b"", V2_START, V2_START + b"\x21\x11", b"PROXY ", b"PROXY TCP4 "])


@given(STARTS, st.binary(max_size=300))
def test_no_bytes_break_it(start: bytes, rest: bytes) -> None:
    """Any bytes are a header, the beginning of one, or refused."""
    try:
        header = read(start + rest)
    except ProxyProtocolError:
        return
    assert header is None or 0 < header.length <= len(start + rest)
