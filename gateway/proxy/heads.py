"""The heads of requests and answers as the gateway writes them. Pure: bytes in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.proxy.headers import status_line
from gateway.settings import Upstream
from metering.counters import Take, Taken
from policies.quota import Window

if TYPE_CHECKING:
    from gateway.dialects import Refusal
    from gateway.proxy.requests import Request
    from gateway.proxy.today import Today

_DAY = Window.DAY


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


def refusal_head(refusal: Refusal, own: bytes) -> bytes:
    """Return the head of a refusal without its end."""
    lines = [status_line(refusal.status)]
    lines += (b"%b: %b\r\n" % field for field in refusal.headers)
    lines.append(b"Content-Length: %d\r\n" % len(refusal.body))
    lines.append(own)
    return b"".join(lines)


class Limits:
    """Says what is left of limits; calls that were counted together follow each other, and are told alike."""

    __slots__ = ("_fields", "_taken", "_today")

    def __init__(self, today: Today) -> None:
        self._today = today
        self._taken: Taken | None = None
        self._fields = b""

    def fields(self, take: Take, taken: Taken, now: float) -> bytes:
        """Return the fields that say what a take left at `now` (epoch s)."""
        if self._taken is not taken:
            self._taken = taken
            self._fields = limit_fields(take, taken.used, self._today.seconds_left(now))
        return self._fields


def limit_fields(take: Take, used: int, seconds_left_today: int) -> bytes:
    """Return RateLimit and RateLimit-Policy (IETF draft-ietf-httpapi-ratelimit-headers), nothing without a
    limit.

    When a rolling window gives units back depends on when each was taken, so it names no time.
    """
    limit = take.limit
    if limit is None:
        return b""
    left = limit - used if used < limit else 0
    if take.window is _DAY:
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
