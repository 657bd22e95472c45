"""Reading a method out of a request's path, and refusing paths that servers read differently."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.proxy.parameters import percent_decode

# These may lead another server to another path: segments of dots and spaces, backslashes, fragments,
# controls, escapes of escapes, and dots, slashes and backslashes in more bytes than UTF-8 allows.
_TREACHEROUS = re.compile(
    rb"(?:^|/|%2f)(?:[. ]|%2e|%20)+(?:/|%2f|;|%3b|$)"
    rb"|\\|%5c|#|%[01][0-9a-f]|%7f|%25|[\x00-\x1f\x7f]"
    rb"|(?:%c0|\xc0)(?:%a[ef]|[\xae\xaf])|(?:%c1|\xc1)(?:%9c|\x9c)"
    rb"|(?:(?:%e0|\xe0)|(?:%f0|\xf0)(?:%80|\x80))(?:%8[01]|[\x80\x81])",
    re.IGNORECASE,
)
# These matter where a segment of the path, or all of it, is the method's name.
_SPLITTING = re.compile(rb"%2f|;|%3b|%3f", re.IGNORECASE)
_METHOD_NAME = re.compile(r"[\x21-\x7e]{1,256}\Z")


@dataclass(frozen=True, slots=True)
class PathReading:
    """The last segment of a path, whether it can be a method's name, and the segments before it, decoded."""

    last: str
    is_name: bool = False
    before: tuple[str, ...] = ()


def is_method_name(text: str) -> bool:
    """Say whether a text can be a method's name: 1 to 256 visible ASCII characters."""
    return _METHOD_NAME.match(text) is not None


def is_treacherous(path: bytes) -> bool:
    """Say whether servers may disagree on where this path leads."""
    return _TREACHEROUS.search(path) is not None or percent_decode(path) is None


def read_path(path: bytes) -> PathReading | None:
    """Split a path that holds a method's name; None when it cannot be read for certain.

    One slash at the end is ignored, as some frameworks do.
    """
    if _SPLITTING.search(path):
        return None
    # A plus in a path is a plus: only queries and forms write a space so.
    decoded = percent_decode(path.replace(b"+", b"%2B"))
    if decoded is None:
        return None
    segments = [segment.decode("utf-8", "replace") for segment in decoded.split(b"/") if segment]
    if not segments:
        return PathReading("")
    return PathReading(segments[-1], is_method_name(segments[-1]), tuple(segments[:-1]))


def full_method(http_method: str, path: bytes) -> str | None:
    """Return HTTP method and decoded path, as `GET /v1/items`; None when they are not certain."""
    if _SPLITTING.search(path):
        return None
    decoded = percent_decode(path.replace(b"+", b"%2B"))
    if decoded is None or b"//" in decoded:
        return None
    text = decoded.decode("utf-8", "replace")
    return f"{http_method.upper()} {text}" if text.isprintable() else None
