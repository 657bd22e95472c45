"""One request as it comes in, and how one is read whose header lines the last one had."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.proxy.headers import Header

# What queries are made of: marks, escapes, and what needs none. To llhttp and to everybody else these bytes
# are part of a target, wherever in it they stand.
PLAIN_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$'()*+,/:@%&=?"
_GET, _VERSION = b"GET /", b" HTTP/1.1\r\n"


class Incoming:
    """One request as the parser reads it; its body grows until it is `whole`."""

    __slots__ = (
        "_pieces",
        "headers",
        "keep_alive",
        "method",
        "plain_target",
        "target",
        "upgrade",
        "version",
        "whole",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: tuple[Header, ...],
        version: str,
        keep_alive: bool,
        upgrade: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.version = version
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.whole = False
        self.plain_target = False  # known to consist of PLAIN_BYTES only
        self._pieces: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Keep a piece of the body until it is taken."""
        self._pieces.append(data)

    def take_body(self) -> bytes:
        """Return what has come of the body since the last time."""
        if not self._pieces:
            return b""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class RepeatedHead:
    """Reads heads of HTTP/1.1 whose header lines are those of an earlier one, byte by byte.

    llhttp reads them, as it reads any other, unless the line before them is plain beyond doubt; only what the
    same bytes have told before is not told again, which for a head with many fields takes longer than the
    reading.
    """

    __slots__ = ("_headers", "_parser", "_target", "_whole")

    def __init__(self, headers: tuple[Header, ...]) -> None:
        self._headers = headers
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._whole = False

    def read(self, data: bytes) -> Incoming | None:
        """Return the request that `data` is; None when it has to be read as any other, and this not again."""
        parser = self._parser
        self._target = b""
        self._whole = False
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return None
        # To HTTP/1.0 the same fields may mean another thing for the connection.
        if not self._whole or parser.should_upgrade() or parser.get_http_version() != "1.1":
            return None
        incoming = Incoming(parser.get_method(), self._target, self._headers, "1.1", True, False)
        incoming.whole = True
        return incoming

    def read_plain(self, data: bytes, size: int) -> Incoming | None:
        """Return the request that `data` is when its first `size` bytes are a plain line of GET.

        The earlier head was of GET too, so nothing is left for llhttp to say.
        """
        end = size - len(_VERSION)
        if not data.startswith(_GET) or end <= 4 or not data.startswith(_VERSION, end):
            return None
        target = data[4:end]
        if target.translate(None, PLAIN_BYTES):
            return None
        incoming = Incoming(b"GET", target, self._headers, "1.1", True, False)
        incoming.whole = incoming.plain_target = True
        return incoming

    def on_url(self, target: bytes) -> None:
        """Take the target, or a piece of it."""
        self._target = self._target + target if self._target else target

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._whole = True
