"""The PROXY protocol, versions 1 and 2: what a balancer says of a connection before its first byte. Pure.

Read strictly, since what it says is believed: a header that is not exactly right is refused, and the
connection with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from policies.allow_lists import address_of

V1_MAX_BYTES = 107  # the longest line of version 1, its end included
V2_MAX_BYTES = 4096  # of what follows the fixed part; balancers add far less
V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
V2_FIXED_BYTES = 16

_V1_LINE = re.compile(
    rb"PROXY (?:(TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
    rb"|UNKNOWN(?: [\x20-\x7e]*)?)\r\n\Z"
)
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# Addresses of these are none of a client's: unspecified, and sockets of the balancer's own machine.
_WITHOUT_ADDRESS = frozenset((0x00, 0x31))
_SSL, _SSL_CLIENT = 0x20, 0x01


class ProxyProtocolError(ValueError):
    """A trusted proxy sent something else than a whole and well-formed header."""


@dataclass(frozen=True, slots=True)
class Header:
    """What was read: its length, the client's address where it is told, and whether the client used TLS."""

    length: int
    address: str | None
    tls: bool = False


def read(data: bytes) -> Header | None:
    """Read a header at the beginning of `data`; None when more bytes are needed.

    Raises ProxyProtocolError for what cannot become one any more.
    """
    if data.startswith(V2_START):
        return _read_v2(data)
    if V2_START.startswith(data[: len(V2_START)]):
        return None
    line, end, _ = data[:V1_MAX_BYTES].partition(b"\r\n")
    if end:
        return _read_v1(line + end)
    if not b"PROXY ".startswith(data[:6]) or len(data) >= V1_MAX_BYTES:
        raise ProxyProtocolError("no header of the PROXY protocol")
    return None


def _read_v1(line: bytes) -> Header:
    found = _V1_LINE.match(line)
    if found is None:
        raise ProxyProtocolError("a malformed line of version 1")
    family, source, target, *ports = found.groups()
    if family is None:
        return Header(len(line), None)
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    addresses = [_exact(text, kind) for text in (source, target)]
    if any(int(port) > 65535 for port in ports):
        raise ProxyProtocolError("a port beyond 65535")
    return Header(len(line), addresses[0])


def _exact(text: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        address = kind(text.decode("ascii"))
    except ValueError as error:
        raise ProxyProtocolError("an address that is none") from error
    return _plain(address)


def _plain(address: IPv4Address | IPv6Address) -> str:
    return str(address_of(str(address)))


def _read_v2(data: bytes) -> Header | None:
    if len(data) < V2_FIXED_BYTES:
        return None
    command, family = data[12], data[13]
    length = int.from_bytes(data[14:16])
    if command not in (_LOCAL, _PROXY) or length > V2_MAX_BYTES:
        raise ProxyProtocolError("an unknown command or a header that is too long")
    end = V2_FIXED_BYTES + length
    if len(data) < end:
        return None
    content = data[V2_FIXED_BYTES:end]
    if command == _LOCAL:  # the balancer itself, as in a health check
        return Header(end, None)
    if family == _TCP4 and length >= 12:
        return Header(end, str(IPv4Address(content[:4])), _is_tls(content[12:]))
    if family == _TCP6 and length >= 36:
        return Header(end, _plain(IPv6Address(content[:16])), _is_tls(content[36:]))
    if family in _WITHOUT_ADDRESS:
        return Header(end, None)
    raise ProxyProtocolError("a family that is not of TCP, or too few bytes for its addresses")


def _is_tls(rest: bytes) -> bool:
    """Walk through the fields behind the addresses for the one that tells of the client's TLS."""
    found = False
    while rest:
        size = int.from_bytes(rest[1:3])
        value = rest[3 : 3 + size]
        if len(rest) < 3 or len(value) < size:
            raise ProxyProtocolError("a field that ends beyond the header")
        if rest[0] == _SSL:
            found = bool(value) and bool(value[0] & _SSL_CLIENT)
        rest = rest[3 + size :]
    return found
