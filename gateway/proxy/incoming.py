"""One request as it comes in, and how one is read whose header lines the last one had."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.proxy.headers import Header


class Incoming:
    """One request as the parser reads it; its body grows until it is `whole`."""

    __slots__ = ("_pieces", "headers", "keep_alive", "method", "target", "upgrade", "version", "whole")

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
    """Reads heads whose header lines are those of an earlier one, byte by byte.

    llhttp reads them all, as it reads any other; only what the same bytes have told before is not told again,
    which for a head with many fields takes longer than the reading.
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
        if not self._whole or parser.should_upgrade() or not parser.should_keep_alive():
            return None
        incoming = Incoming(
            parser.get_method(), self._target, self._headers, parser.get_http_version(), True, False
        )
        incoming.whole = True
        return incoming

    def on_url(self, target: bytes) -> None:
        """Take the target, or a piece of it."""
        self._target = self._target + target if self._target else target

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._whole = True
