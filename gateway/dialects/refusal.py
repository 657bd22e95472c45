"""The shape of a refusal, before it is put on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that the gateway gives itself; its headers hold the Content-Type and no Content-Length."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def fields(content_type: bytes, retry_after_s: int | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return a refusal's header fields.

    It is not to be stored: a refusal with status 200 looks like an answer.
    """
    always = ((b"Content-Type", content_type), (b"Cache-Control", b"no-store"))
    return always if retry_after_s is None else (*always, (b"Retry-After", b"%d" % retry_after_s))


def safe_id(request_id: str) -> str:
    """Return a request id without what could end a string or an element around it."""
    return _UNSAFE.sub("", request_id)
