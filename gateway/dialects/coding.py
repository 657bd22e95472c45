"""Decompression of an answer as it passes, in bounded pieces.

It is for reading only: the client gets the bytes as they came.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

PIECE_BYTES = 64 * 1024

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_BARE_DEFLATE = -zlib.MAX_WBITS
_GZIP_NAMES = ([b"gzip"], [b"x-gzip"])


class UnreadableCodingError(ValueError):
    """The answer's coding is not known, or its data are broken."""


class Decoder:
    """Undoes the Content-Encoding of one answer: none, gzip, or deflate in either of its two meanings."""

    def __init__(self, fields: Sequence[bytes]) -> None:
        """Take the values of the Content-Encoding fields."""
        codings = [
            coding
            for value in fields
            for coding in value.lower().replace(b" ", b"").split(b",")
            if coding not in (b"", b"identity")
        ]
        self.is_plain = not codings
        self._is_gzip = codings in _GZIP_NAMES
        self.is_readable = self.is_plain or self._is_gzip or codings == [b"deflate"]
        self._stream = zlib.decompressobj(_GZIP) if self._is_gzip else None
        self._held = b""

    def decode(self, data: bytes, limit: int = PIECE_BYTES) -> Iterator[bytes]:
        """Yield the decoded data in pieces of at most `limit` bytes; raises UnreadableCodingError."""
        if self.is_plain:
            yield data
            return
        if not self.is_readable:
            raise UnreadableCodingError("unknown coding")
        if self._stream is None:
            data = self._held = self._held + data
            if len(data) < 2:
                return
            self._stream = _deflate_stream(data)
            self._held = b""
        while data:
            if self._stream.eof:
                # A gzip file may have several members; anything else behind the end is no part of the answer.
                if not self._is_gzip or not data.startswith(b"\x1f"):
                    return
                self._stream = zlib.decompressobj(_GZIP)
            try:
                piece = self._stream.decompress(data, limit)
            except zlib.error as error:
                raise UnreadableCodingError("broken data") from error
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece


def _deflate_stream(data: bytes) -> zlib._Decompress:
    """Tell from the first two bytes whether `deflate` means zlib's format, as the standard says, or bare
    data.
    """
    is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
    return zlib.decompressobj(_ZLIB if is_zlib else _BARE_DEFLATE)
