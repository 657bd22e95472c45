"""A request as it arrived, and its parameters as a lenient server reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from urllib.parse import unquote, unquote_to_bytes

KEPT_BODY_BYTES = 1 << 20


class Body:
    """A request's body: hashed whole as it arrives, kept up to a megabyte."""

    __slots__ = ("_hash", "kept", "length")

    def __init__(self) -> None:
        self.kept = b""
        self.length = 0
        self._hash = sha256()

    def add(self, data: bytes) -> None:
        """Take a piece of it."""
        self._hash.update(data)
        self.length += len(data)
        if self.length <= KEPT_BODY_BYTES:
            self.kept += data
        else:
            self.kept = b""

    def sha256(self) -> str:
        """Return the hash of all of it, 64 hex digits."""
        return self._hash.hexdigest()


@dataclass
class Request:
    """One request; `target`, `headers` and the body are the bytes as received."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]  # by name in lower case; of doubled ones the last
    body: Body

    @cached_property
    def path(self) -> str:
        """The decoded path."""
        return unquote(self.target.partition(b"?")[0].decode("utf-8", "replace"))

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The decoded parameters of query and form by name in lower case, of doubled ones the last."""
        found: dict[str, str] = {}
        raw = self.target.partition(b"?")[2]
        if self.fields.get(b"content-type", b"").lower().startswith(b"application/x-www-form-urlencoded"):
            raw = raw + b"&" + self.body.kept
        for segment in raw.split(b"&"):
            if segment:
                name, _, value = segment.partition(b"=")
                found[_decode(name).lower()] = _decode(value)
        return found

    @property
    def accepts_gzip(self) -> bool:
        """Whether the caller asks for gzip."""
        return b"gzip" in self.fields.get(b"accept-encoding", b"")


def _decode(raw: bytes) -> str:
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "replace")
