"""Readers that are nothing but straightforward: what the gateway takes for certain, they have to read too."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

MALFORMED_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
BARE_AMPERSAND = re.compile(r"&(?!(?:[A-Za-z]+|#[0-9]+|#x[0-9A-Fa-f]+);)")


def local(tag: str) -> str:
    """Return an element's name without its namespace."""
    return tag.rpartition("}")[2]


def unescaped(raw: bytes) -> bytes | None:
    """Undo percent-encoding as the standard library does; None for a malformed escape."""
    return None if MALFORMED_ESCAPE.search(raw) else unquote_to_bytes(raw.replace(b"+", b" "))


def parameters(raw: bytes) -> dict[str, list[str]]:
    """Read a query or a form as the standard library does."""
    found: dict[str, list[str]] = {}
    text = raw.decode("utf-8", "replace")
    for name, value in parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="replace"):
        found.setdefault(name, []).append(value)
    return found


def xml_root(text: str) -> ElementTree.Element | None:
    """Read a document as expat does, with ampersands that stand for themselves; None for what it refuses."""
    try:
        return ElementTree.fromstring(BARE_AMPERSAND.sub("&amp;", text))  # noqa: S314 - it is what is compared
    except (ElementTree.ParseError, ValueError):
        return None


def children(root: ElementTree.Element, names: frozenset[str]) -> dict[str, str]:
    """Return the texts of those elements below the root that have one of the names."""
    return {child.tag: child.text or "" for child in root if child.tag in names}


class _Tags(HTMLParser):
    """A reader that forgives everything, and knows no letter case."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._names = {name.lower() for name in names}
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag.rpartition(":")[2] in self._names:
            self.seen.append(tag)


def tags(text: str, names: frozenset[str]) -> list[str]:
    """Return the elements with one of the names that a reader finds who forgives everything."""
    parser = _Tags(names)
    parser.feed(text)
    parser.close()
    return parser.seen


def soap_call(body: bytes) -> tuple[str, list[tuple[str, str, bool]]]:
    """Return an envelope's method and its arguments, each with whether it is plain text."""
    root = ElementTree.fromstring(body)  # noqa: S314 - it is what is compared
    [holder] = [child for child in root if local(child.tag) == "Body"]
    [method] = list(holder)
    arguments = [(local(each.tag), each.text or "", not (len(each) or each.attrib)) for each in method]
    return local(method.tag), arguments


def json_without_doubles(text: str) -> Any:
    """Read JSON; raises ValueError where a name is doubled or a number is none of the standard's."""

    def once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("doubled")
        return found

    def refuse(number: str) -> Any:
        raise ValueError(number)

    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
