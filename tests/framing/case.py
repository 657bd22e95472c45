"""What a hostile request is made of."""

from __future__ import annotations

from dataclasses import dataclass

from policies import keys

# Stands for the key in every request of the corpus; a real one of the same length takes its place.
KEY = keys.issue(bytes(16))

ANSWERED = "answered"
CLOSED = "closed"  # without a word: what came was no whole request when the client closed its side
ITEM = "/service-json/GetItemInfo"
SEARCH = "/service-json/SearchItemsFrame"


@dataclass(frozen=True)
class Rule:
    """What the gateway does about one kind of request, why, and the requests that show it.

    `answers` are the answers that each of the `cases` gets in turn: ANSWERED, or the name of a refusal; the
    connection closes behind the last one that is a refusal of the request as such.
    """

    what: str
    answers: tuple[str, ...]
    why: str
    cases: dict[str, bytes]


def head(line: str, *fields: str, host: str | None = "Host: a.example") -> bytes:
    """Return a head with the key in its field; a request line without a version gets HTTP/1.1."""
    if " HTTP/" not in line:
        line += " HTTP/1.1"
    lines = [line, *([host] if host is not None else []), f"X-Api-Key: {KEY}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def get(target: str = ITEM, *fields: str) -> bytes:
    """Return a GET without a body."""
    return head(f"GET {target}", *fields)


def post(body: bytes | str, *fields: str, line: str = f"POST {ITEM}") -> bytes:
    """Return a request with a body framed by `fields`."""
    return head(line, *fields) + (body if isinstance(body, bytes) else body.encode("latin-1"))


def chunked(body: bytes | str, *fields: str) -> bytes:
    """Return a POST whose chunked body is `body`, as it stands."""
    return post(body, "Transfer-Encoding: chunked", *fields)


# What a smuggler wants served without being counted: a search.
HIDDEN = get(SEARCH, "X-Hidden: 1")
