"""Parameters of a query or an urlencoded form, read without touching their bytes.

Decoding answers None where two readers could disagree, so that a caller has to say what that means.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from enum import IntEnum
from urllib.parse import unquote_to_bytes

# ASP.NET stops at 1,000 form keys (MaxHttpCollectionKeys) and its answer to more is an error page.
MAX_PARAMETERS = 1000

# Bytes look for a number in themselves ten times faster than for other bytes.
PERCENT, PLUS, EQUALS, SEMICOLON, CR, LF = b"%+=;\r\n"

_ESCAPE = re.compile(rb"%(?:[0-9A-Fa-f]{2})?")
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"+%", b" =")
_CORE = re.compile(r"[^\w\-]*([\w\-.]*[\w\-])")


class Spelling(IntEnum):
    """How a name in a request relates to the name that is looked for."""

    EXACT = 0  # the same bytes
    VARIANT = 1  # the same name in another letter case or percent-encoded
    LOOSE = 2  # only some readers take it for that name: `name[]`, ` name`, `name\0`


def percent_decode(raw: bytes) -> bytes | None:
    """Decode `%XX` and `+` once; None when an escape is malformed.

    The quoted-printable decoder of the standard library does the work in C: with `%` for its `=`, both use
    the same escapes. A malformed escape shows in the length, because every good one shortens the text by two.
    """
    escapes = raw.count(b"%")
    if not escapes:
        return raw.replace(b"+", b" ") if PLUS in raw else raw
    if LF in raw or CR in raw:
        # To the quoted-printable decoder an escape before a line end means something of its own.
        if any(len(match) == 1 for match in _ESCAPE.findall(raw)):
            return None
        return unquote_to_bytes(raw.replace(b"+", b" "))
    if EQUALS in raw:
        raw = raw.replace(b"=", b"%3D")
        escapes = raw.count(b"%")
    decoded = a2b_qp(raw.translate(_AS_QUOTED_PRINTABLE))
    return decoded if len(decoded) == len(raw) - 2 * escapes else None


def decode_text(raw: bytes) -> str:
    """Decode a parameter's value for comparison with a known text; what cannot be decoded becomes U+FFFD."""
    if PERCENT not in raw and PLUS not in raw:
        return raw.decode("utf-8", "replace")
    decoded = percent_decode(raw)
    return (raw if decoded is None else decoded).decode("utf-8", "replace")


def folded_name(raw: bytes) -> tuple[str, str]:
    """Return a raw name decoded and in lower case, and what is left of it for readers that trim a name."""
    text = decode_text(raw).lower()
    core = _CORE.match(text)
    return text, "" if core is None else core.group(1)


def split(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Split a query or a form into raw names and values, in order; empty segments are dropped."""
    pairs = []
    for segment in raw.split(b"&"):
        if segment:
            name, _, value = segment.partition(b"=")
            pairs.append((name, value))
    return pairs
