"""An upstream's answer: what its head says, and which of it goes on to the client. Pure: one pass over the
fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.proxy.headers import (
    HOP_BY_HOP,
    KNOWN_NAMES_MAX,
    OWN_PREFIX,
    Header,
    connection_options,
    status_line,
)

if TYPE_CHECKING:
    from gateway.proxy.requests import Request

_OWN = frozenset((b"ratelimit", b"ratelimit-policy", b"x-request-id"))
_BODILESS = frozenset((204, 304))
_CONNECTION_DEFAULTS = frozenset((b"keep-alive", b"close"))


class _Use:
    """What becomes of a field."""

    PASSED: Final = 0
    DROPPED: Final = 1
    LENGTH: Final = 2
    TRANSFER_CODING: Final = 3
    CONNECTION: Final = 4
    CONTENT_CODING: Final = 5  # read and passed


_SPECIAL = {
    b"content-length": _Use.LENGTH,
    b"transfer-encoding": _Use.TRANSFER_CODING,
    b"connection": _Use.CONNECTION,
    b"content-encoding": _Use.CONTENT_CODING,
}
_uses: dict[bytes, int] = {}


class AnswerHead:
    """The head of an answer; `fields` are the pieces that go on, in their order and bytes."""

    __slots__ = ("chunked", "codings", "fields", "length", "status")

    def __init__(self, status: int, headers: Sequence[Header], http_11: bool) -> None:
        """Read the fields; raises ValueError for a transfer coding that cannot be undone."""
        self.status = status
        self.length: bytes | None = None
        self.chunked = False
        self.codings: tuple[bytes, ...] = ()  # Content-Encoding, field by field
        options: frozenset[bytes] | None = None
        fields: list[bytes] = []
        for name, value in headers:
            use = _uses.get(name)
            if use is None:
                use = _learn(name)
            if use == _Use.PASSED:
                fields += (name, b": ", value, b"\r\n")
            elif use == _Use.LENGTH:
                self.length = value
            elif use == _Use.CONTENT_CODING:
                self.codings += (value,)
                fields += (name, b": ", value, b"\r\n")
            elif use == _Use.CONNECTION:
                if value not in _CONNECTION_DEFAULTS:
                    options = connection_options(headers)
            elif use == _Use.TRANSFER_CODING:
                # Any other one would have to be undone to be passed on, and HTTP/1.0 has none.
                if self.chunked or not http_11 or value.strip().lower() != b"chunked":
                    raise ValueError("transfer coding")
                self.chunked = True
        if options:
            fields = [
                piece
                for at in range(0, len(fields), 4)
                if fields[at].lower() not in options
                for piece in fields[at : at + 4]
            ]
        self.fields = fields

    def framing(self, request: Request, out: list[bytes]) -> bytes | None:
        """Add the line that frames the body for the client, and say how it is framed.

        It is `chunked` (the gateway writes chunks), `close` (the body ends with the connection) or None (as
        long as the upstream said, or no body).
        """
        if self.length is not None and not self.chunked:
            if self.status != 204:  # which has no body that could have a length (RFC 9110 section 8.6)
                out += (b"Content-Length: ", self.length, b"\r\n")
            return None
        if request.method == "HEAD" or self.status in _BODILESS:
            return None
        if not request.http_11:
            return b"close"
        out.append(b"Transfer-Encoding: chunked\r\n")
        return b"chunked"

    def begin(self) -> list[bytes]:
        """Return the status line and the fields that go on."""
        return [status_line(self.status), *self.fields]


def _learn(name: bytes) -> int:
    folded = name.lower()
    use = _SPECIAL.get(folded)
    if use is None:
        dropped = folded in HOP_BY_HOP or folded in _OWN or folded.startswith(OWN_PREFIX)
        use = _Use.DROPPED if dropped else _Use.PASSED
    if len(_uses) < KNOWN_NAMES_MAX:
        _uses[name] = use
    return use
