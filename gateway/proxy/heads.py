"""The heads of requests and answers as the gateway writes them. Pure: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.proxy.headers import Header, answer_fields, connection_options, status_line
from gateway.settings import Upstream
from metering.counters import Take
from policies.quota import Window

if TYPE_CHECKING:
    from gateway.dialects import Refusal
    from gateway.proxy.requests import Request

_NO_OPTIONS: frozenset[bytes] = frozenset()
_BODILESS = frozenset((204, 304))


class RequestHead:
    """Writes the heads of requests to one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._base = upstream.base_path.encode()
        self._end_of_line = b" HTTP/1.1\r\nHost: %b\r\n" % upstream.host_header.encode()

    def write(
        self, request: Request, target: bytes, fields: bytes, request_id: bytes, framing: bytes
    ) -> bytes:
        """Return a head; `fields` are the client's that travel on, `framing` is the line that frames the
        body."""
        return b"".join(
            (
                request.method.encode(),
                b" ",
                self._base,
                target,
                self._end_of_line,
                fields,
                b"X-Forwarded-For: ",
                request.client,
                b"\r\nX-Forwarded-Proto: ",
                request.scheme,
                b"\r\nX-Request-Id: ",
                request_id,
                b"\r\n",
                framing,
                b"\r\n",
            )
        )


def answer_head(
    request: Request, status: int, headers: Sequence[Header], *, chunked: bool, own: bytes
) -> tuple[bytes, bytes | None]:
    """Return the head of an answer without its end, and how its body is framed.

    The framing is `chunked` (the gateway writes chunks), `close` (the body ends with the connection) or None
    (as long as the upstream said, or no body). `own` are the gateway's own lines.
    """
    length: bytes | None = None
    options = _NO_OPTIONS
    for name, value in headers:
        size = len(name)
        if size == 14:
            if name.lower() == b"content-length":
                length = value
        elif size == 10 and value != b"keep-alive" and name.lower() == b"connection":
            options = connection_options(headers)
    out = [status_line(status)]
    answer_fields(headers, options, out)
    framing = None
    if length is not None and not chunked:
        if status != 204:  # which has no body that could have a length (RFC 9110 section 8.6)
            out += (b"Content-Length: ", length, b"\r\n")
    elif request.method != "HEAD" and status not in _BODILESS:
        framing = b"chunked" if request.http_11 else b"close"
        if request.http_11:
            out.append(b"Transfer-Encoding: chunked\r\n")
    out.append(own)
    return b"".join(out), framing


def refusal_head(refusal: Refusal, own: bytes) -> bytes:
    """Return the head of a refusal without its end."""
    lines = [status_line(refusal.status)]
    lines += (b"%b: %b\r\n" % field for field in refusal.headers)
    lines.append(b"Content-Length: %d\r\n" % len(refusal.body))
    lines.append(own)
    return b"".join(lines)


def limit_fields(take: Take, used: int, seconds_left_today: int) -> bytes:
    """Return RateLimit and RateLimit-Policy (IETF draft-ietf-httpapi-ratelimit-headers), nothing without a
    limit.

    When a rolling window gives units back depends on when each was taken, so it names no time.
    """
    limit = take.limit
    if limit is None:
        return b""
    left = limit - used if used < limit else 0
    if take.window is Window.DAY:
        return b'RateLimit-Policy: "day";q=%d;w=86400\r\nRateLimit: "day";r=%d;t=%d\r\n' % (
            limit,
            left,
            seconds_left_today,
        )
    return b'RateLimit-Policy: "rolling_24h";q=%d;w=86400\r\nRateLimit: "rolling_24h";r=%d\r\n' % (
        limit,
        left,
    )


def chunk(data: bytes) -> bytes:
    """Return data as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
