"""Which header fields travel on, and how heads are written. Pure: bytes in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

Header = tuple[bytes, bytes]

# RFC 9110 section 7.6.1: these speak of one connection, not of the message.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# Written by the gateway itself; a client's own word on them is not passed on.
_REQUEST_OWN = frozenset(
    (
        b"content-length",
        b"expect",
        b"forwarded",
        b"host",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-request-id",
    )
)
# An answer in part has no outcome to be read; it would be content for nothing.
_PARTIAL = frozenset((b"range", b"if-range"))
_UNDERSCORE = ord("_")
OWN_PREFIX = b"x-tallygate-"
KNOWN_NAMES_MAX = 1024  # distinct spellings remembered; a client that sends more only loses the shortcut

_READABLE_CODINGS = frozenset((b"gzip", b"deflate", b"identity", b"x-gzip"))
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?\Z")

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

_request_names: dict[bytes, bool] = {}
_codings: dict[bytes, bytes] = {}
_hosts: set[bytes] = set()


def status_line(status: int) -> bytes:
    """Return the status line; the phrase is the registered one, never an upstream's own text."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def is_host(value: bytes) -> bool:
    """Say whether a Host field is a name or an address with an optional port."""
    if value in _hosts:
        return True
    if _HOST.match(value) is None:
        return False
    if len(_hosts) < KNOWN_NAMES_MAX:
        _hosts.add(value)
    return True


def connection_options(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the names that Connection fields list, in lower case: they end at this hop too."""
    listed: list[bytes] = []
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":
            listed += (option.strip().lower() for option in value.split(b","))
    return frozenset(listed)


def page_of(headers: Iterable[Header]) -> tuple[str | None, str | None]:
    """Return the Origin and the Referer that a browser wrote, None for one that is absent.

    A field that is there twice is empty: it names no page for certain.
    """
    found: dict[bytes, str] = {}
    for name, value in headers:
        folded = name.lower()
        if folded in (b"origin", b"referer"):
            found[folded] = "" if folded in found else value.decode("latin-1")
    return found.get(b"origin"), found.get(b"referer")


def forwarding_fields(headers: Iterable[Header]) -> tuple[str, str]:
    """Return X-Forwarded-For, its lines joined by commas, and X-Forwarded-Proto; empty when absent."""
    addresses: list[str] = []
    proto = ""
    for name, value in headers:
        size = len(name)
        if size == 15 and name.lower() == b"x-forwarded-for":
            addresses.append(value.decode("latin-1"))
        elif size == 17 and name.lower() == b"x-forwarded-proto":
            proto = value.decode("latin-1")
    return ",".join(addresses), proto


def end_to_end(headers: Sequence[Header], options: frozenset[bytes]) -> tuple[Header, ...]:
    """Return the fields that may say what is called: all that a server behind the gateway can come to see.

    What Connection lists ends here (RFC 9110 section 7.6.1). So does a name with an underscore, which some
    servers read as the same name with a hyphen and others as another one.
    """
    return tuple(
        (name, value) for name, value in headers if _UNDERSCORE not in name and name.lower() not in options
    )


def request_fields(headers: Sequence[Header], *, readable: bool) -> bytes:
    """Return the lines of a client's request that go on to the upstream, in their order and bytes.

    With `readable` the content codings that the client offers are narrowed to those that the gateway can read
    an outcome or items in, and the answer is asked for whole.
    """
    out: list[bytes] = []
    for name, value in headers:
        passes = _request_names.get(name)
        if passes is None:
            passes = _learn(name)
        if not passes:
            continue
        if readable:
            folded = name.lower()
            if folded in _PARTIAL:
                continue
            if folded == b"accept-encoding":
                value = _readable_codings(value)
        out += (name, b": ", value, b"\r\n")
    return b"".join(out)


def _learn(name: bytes) -> bool:
    folded = name.lower()
    passes = not (folded in HOP_BY_HOP or folded in _REQUEST_OWN or folded.startswith(OWN_PREFIX))
    if len(_request_names) < KNOWN_NAMES_MAX:
        _request_names[name] = passes
    return passes


def _readable_codings(value: bytes) -> bytes:
    narrowed = _codings.get(value)
    if narrowed is None:
        kept = [
            part.strip()
            for part in value.split(b",")
            if part.split(b";")[0].strip().lower() in _READABLE_CODINGS
        ]
        narrowed = b", ".join(kept) if len(kept) != value.count(b",") + 1 else value
        narrowed = narrowed or b"identity"
        if len(_codings) < KNOWN_NAMES_MAX:
            _codings[value] = narrowed
    return narrowed
