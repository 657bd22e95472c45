"""Decompression of an answer as it passes, in bounded pieces.

It is for reading only: the client gets the bytes as they came.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

PIECE_BYTES = 64 * 1024

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_BARE_DEFLATE = -zlib.MAX_WBITS


class UnreadableCodingError(ValueError):
    """The answer's coding is not known, or its data are broken."""


class Decoder:
    """Undoes the Content-Encoding of one answer: none, gzip, or deflate in either of its two meanings."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        codings = [
            coding
            for name, value in headers
            if name.lower() == b"content-encoding"
            for coding in value.lower().replace(b" ", b"").split(b",")
            if coding not in (b"", b"identity")
        ]
        self.is_plain = not codings
        self.is_readable = not codings or codings in ([b"gzip"], [b"x-gzip"], [b"deflate"])
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._started = False

    def decode(self, data: bytes, limit: int = PIECE_BYTES) -> Iterator[bytes]:
        """Yield the decoded data in pieces of at most `limit` bytes; raises UnreadableCodingError."""
        if self.is_plain:
            yield data
            return
        if not self.is_readable:
            raise UnreadableCodingError("unknown coding")
        while data:
            if self._stream.eof:
                # A gzip file may have several members; anything else behind the end is no part of the answer.
                if not data.startswith(b"\x1f"):
                    return
                self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
            piece = self._inflate(data, limit)
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece

    def _inflate(self, data: bytes, limit: int) -> bytes:
        try:
            piece = self._stream.decompress(data, limit)
        except zlib.error as error:
            if self._started:
                raise UnreadableCodingError("broken data") from error
            self._stream = zlib.decompressobj(_BARE_DEFLATE)
            try:
                piece = self._stream.decompress(data, limit)
            except zlib.error:
                raise UnreadableCodingError("broken data") from error
        self._started = True
        return piece
