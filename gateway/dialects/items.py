"""Counting the elements of a list inside an answer while it streams: what bulk methods cost (contract OT-15).

The list is named by a path such as `Result.Items`. In JSON it is an array under those members; in XML the
path starts below the root, and every child element of the last one counts. Memory does not grow with the
answer.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol
from xml.parsers import expat

import ijson

MAX_DEPTH = 128
# The JSON parser keeps a text until it ends.
MAX_TEXT_BYTES = 8 * 1024 * 1024

# A number that fits into no machine word would end the parser's reading. What it is does not matter here, so
# it becomes another one: the same in a text changes no structure, as escapes keep their digits.
_LONG_NUMBER = re.compile(rb"([0-9]{18})[0-9]+")
_LONG_EXPONENT = re.compile(rb"(?<=[0-9][eE])([+-]?)([0-9]{3,})")
_OF_NUMBERS = b"0123456789eE+-."
_FORM = bytes.maketrans(b"123456789E-", b"000000000e+")
_LONG_FORMS = (b"0" * 19, b"0e000", b"0e+000")
_MAX_NUMBER = 1024  # bytes in a row that could be one; more of them are none

_STARTS = frozenset({"start_map", "start_array"})
_ENDS = frozenset({"end_map", "end_array"})


class _Counter(Protocol):
    @property
    def count(self) -> int: ...

    def feed(self, data: bytes) -> None: ...


class ItemCounter:
    """Counts elements in JSON or XML, whichever the answer is; a broken answer counts up to its break."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._counter: _Counter | None = None
        self._mark = b""  # as much of a byte order mark as has come

    @property
    def count(self) -> int:
        """Return the elements seen so far."""
        return 0 if self._counter is None else self._counter.count

    def feed(self, data: bytes) -> None:
        """Take decoded bytes of the answer."""
        if self._counter is None:
            data = self._mark + data
            if len(data) < len(BOM_UTF8) and BOM_UTF8.startswith(data):
                self._mark = data
                return
            self._mark = b""
            data = data.removeprefix(BOM_UTF8).lstrip()
            if not data:
                return
            self._counter = _XmlItems(self._path) if data.startswith(b"<") else _JsonItems(self._path)
        self._counter.feed(data)


@dataclass(slots=True)
class _Seen:
    """What the events have told: elements counted, and bytes of a text that has not ended."""

    count: int = 0
    without_event: int = 0


class _JsonItems:
    """Reads with ijson's parser, which is never collected in a cycle: events know `_Seen` alone."""

    def __init__(self, path: str) -> None:
        self._seen = _Seen()
        self._open = True
        self._tail = b""  # the last bytes that came, where they may be a part of a number
        events = _events(path.split("."), self._seen)
        next(events)
        self._parser = ijson.basic_parse_coro(events, use_float=True)

    def feed(self, data: bytes) -> None:
        if not self._open:
            return
        self._seen.without_event += len(data)
        data = self._tail + data
        form = data.translate(_FORM)
        if any(long in form for long in _LONG_FORMS):
            data = _LONG_EXPONENT.sub(_no_exponent, _LONG_NUMBER.sub(rb"\1", data))
        whole = data.rstrip(_OF_NUMBERS)
        self._tail = data[len(whole) :]
        if len(self._tail) > _MAX_NUMBER:
            whole, self._tail = data, b""
        if not whole:
            return  # to the parser it would be the end
        try:
            self._parser.send(whole)
            self._open = self._seen.without_event <= MAX_TEXT_BYTES
        except (ijson.JSONError, ValueError, OverflowError, StopIteration):
            self._open = False

    @property
    def count(self) -> int:
        """Return the elements seen so far."""
        return self._seen.count


def _events(wanted: list[str], seen: _Seen) -> Generator[None, tuple[str, Any], None]:
    """Follow the path on ijson's plain events: its own path grows with hostile nesting without bound."""
    # For every open object its current member, for every open array None.
    path: list[str | None] = []
    depth = len(wanted)
    while True:
        event, value = yield
        seen.without_event = 0
        if event == "map_key":
            path[-1] = value
            continue
        if event in _ENDS:
            path.pop()
            continue
        if len(path) == depth + 1 and path[-1] is None and path[:-1] == wanted:
            seen.count += 1
        if event in _STARTS:
            path.append(None)
            if len(path) > MAX_DEPTH:
                raise ValueError("nested too deep")


def _no_exponent(found: re.Match[bytes]) -> bytes:
    return found[1] + b"0" * len(found[2])


class _XmlItems:
    def __init__(self, path: str) -> None:
        self.count = 0
        self._list = path.split(".")
        self._path: list[str] = []
        self._open = True
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._refuse
        self._parser = parser

    def feed(self, data: bytes) -> None:
        if not self._open:
            return
        try:
            self._parser.Parse(data, False)
        except (expat.ExpatError, ValueError, LookupError):  # the last for an encoding that nobody knows
            self._open = False

    def _start(self, name: str, _: dict[str, str]) -> None:
        if self._path[1:] == self._list:
            self.count += 1
        self._path.append(name.rpartition(":")[2])
        if len(self._path) > MAX_DEPTH:
            raise ValueError("nested too deep")

    def _end(self, _: str) -> None:
        self._path.pop()

    def _refuse(self, *_: object) -> None:
        raise ValueError("an entity declaration")
