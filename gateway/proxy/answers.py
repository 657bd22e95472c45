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
    """The head of an answer; `pieces` are the status line and the fields that go on, in their order and
    bytes."""

    __slots__ = ("body_bytes", "chunked", "codings", "length", "pieces", "status")

    def __init__(
        self,
        status: int,
        pieces: list[bytes],
        length: bytes | None,
        chunked: bool,
        codings: tuple[bytes, ...],
        body_bytes: int = 0,
    ) -> None:
        self.status = status
        self.pieces = pieces
        self.length = length  # as the upstream has written it
        self.chunked = chunked
        self.codings = codings  # Content-Encoding, field by field
        self.body_bytes = body_bytes  # of a body that is known to be here

    def joined(self) -> AnswerHead:
        """Return the same head in one piece."""
        return AnswerHead(self.status, [b"".join(self.pieces)], self.length, self.chunked, self.codings)

    def with_length(self, length: bytes, body_bytes: int) -> AnswerHead:
        """Return the same head with another length."""
        return AnswerHead(self.status, self.pieces, length, self.chunked, self.codings, body_bytes)

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


def read_answer_head(status: int, headers: Sequence[Header], http_11: bool) -> AnswerHead:
    """Read the fields; raises ValueError for a transfer coding that cannot be undone."""
    length: bytes | None = None
    chunked = False
    codings: tuple[bytes, ...] = ()
    options: frozenset[bytes] | None = None
    fields: list[bytes] = []
    for name, value in headers:
        use = _uses.get(name)
        if use is None:
            use = _learn(name)
        if use == _Use.PASSED:
            fields += (name, b": ", value, b"\r\n")
        elif use == _Use.LENGTH:
            length = value
        elif use == _Use.CONTENT_CODING:
            codings += (value,)
            fields += (name, b": ", value, b"\r\n")
        elif use == _Use.CONNECTION:
            if value not in _CONNECTION_DEFAULTS:
                options = connection_options(headers)
        elif use == _Use.TRANSFER_CODING:
            # Any other one would have to be undone to be passed on, and HTTP/1.0 has none.
            if chunked or not http_11 or value.strip().lower() != b"chunked":
                raise ValueError("transfer coding")
            chunked = True
    if options:
        fields = [
            piece
            for at in range(0, len(fields), 4)
            if fields[at].lower() not in options
            for piece in fields[at : at + 4]
        ]
    return AnswerHead(status, [status_line(status), *fields], length, chunked, codings)


def _learn(name: bytes) -> int:
    folded = name.lower()
    use = _SPECIAL.get(folded)
    if use is None:
        dropped = folded in HOP_BY_HOP or folded in _OWN or folded.startswith(OWN_PREFIX)
        use = _Use.DROPPED if dropped else _Use.PASSED
    if len(_uses) < KNOWN_NAMES_MAX:
        _uses[name] = use
    return use
