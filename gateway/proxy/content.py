"""What a request's Content-Type and Content-Encoding say about how its body is to be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

REMEMBERED = 512
REMEMBERED_BYTES = 256

_CHARSET = re.compile(rb'charset\s*=\s*["\']?([^"\';\s]*)')
_ACTION = re.compile(rb'action\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_UTF_8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})


class BodyKind(Enum):
    """What a body is made of, as far as identification can read it."""

    FORM = "form"
    XML = "xml"
    JSON = "json"
    OPAQUE = "opaque"  # multipart, compressed, without a type, or with two


_KINDS = {
    b"application/x-www-form-urlencoded": BodyKind.FORM,
    b"text/xml": BodyKind.XML,
    b"application/xml": BodyKind.XML,
    b"application/soap+xml": BodyKind.XML,
    b"application/json": BodyKind.JSON,
    b"application/json-rpc": BodyKind.JSON,
    b"application/jsonrequest": BodyKind.JSON,
    b"text/json": BodyKind.JSON,
}


@dataclass(frozen=True, slots=True)
class Content:
    """A body's kind; `is_utf_8` is False when another character set is named; `action` is SOAP 1.2's."""

    kind: BodyKind
    is_utf_8: bool = True
    action: bytes = b""


UNTYPED = Content(BodyKind.OPAQUE)


def content_of(types: Sequence[bytes], is_coded: bool) -> Content:
    """Read a request's Content-Type fields; `is_coded` when its body has a Content-Encoding."""
    if len(types) != 1:
        return UNTYPED if not types else Content(BodyKind.OPAQUE, is_utf_8=False)
    raw = types[0]
    found = _remembered.get(raw)
    if found is None:
        found = _read(raw)
        if len(raw) <= REMEMBERED_BYTES:
            if len(_remembered) >= REMEMBERED:
                _remembered.clear()
            _remembered[raw] = found
    return Content(BodyKind.OPAQUE, found.is_utf_8) if is_coded else found


_remembered: dict[bytes, Content] = {}


def _read(raw: bytes) -> Content:
    folded = raw.lower()
    media_type, _, parameters = folded.partition(b";")
    charsets = _CHARSET.findall(parameters)
    action = _ACTION.search(raw)
    return Content(
        _KINDS.get(media_type.strip(), BodyKind.OPAQUE),
        len(charsets) <= 1 and _UTF_8.issuperset(charsets),
        action.group(1) if action is not None else b"",
    )
