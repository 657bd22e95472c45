"""Answers whose heads llhttp has read before, told by their bytes. Pure.

An upstream sends the same head again and again: within a second even its Date is the same, and only the
length of the body changes. Such an answer, when it has come whole and nothing has come behind it, does not
have to be read once more: between two messages llhttp reads the same bytes in the same way.
"""

from __future__ import annotations

import re

from gateway.proxy.answers import AnswerHead

REMEMBERED = 4  # heads of an upstream; the one that was seen last goes first
REMEMBERED_BYTES = 4096
LENGTH_DIGITS_MAX = 9
# From upstreams whose heads are all different, only every so many heads are remembered.
MISSES_IN_A_ROW = 64

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})(?=\r\n)", re.IGNORECASE)
_END = b"\r\n\r\n"


class KnownHead:
    """What an answer's bytes are before and behind the digits of its length, and what they say."""

    __slots__ = ("before", "behind", "head")

    def __init__(self, before: bytes, behind: bytes, head: AnswerHead) -> None:
        self.before = before
        self.behind = behind
        self.head = head


class KnownAnswers:
    """The heads that an upstream has sent lately."""

    __slots__ = ("_heads", "_misses")

    def __init__(self) -> None:
        self._heads: list[KnownHead] = []
        self._misses = 0

    def read(self, data: bytes) -> AnswerHead | None:
        """Return the head of the one whole answer that `data` is, with the length of its body; None when
        it has to be read as any other.

        The caller knows that `data` begins an answer, and that its request was not HEAD.
        """
        at = -1
        for known in self._heads:
            at += 1
            before, behind = known.before, known.behind
            if not data.startswith(before):
                continue
            begin = len(before)
            end = data.find(b"\r", begin, begin + LENGTH_DIGITS_MAX + 1)
            if end < 0 or not data.startswith(behind, end):
                continue
            digits = data[begin:end]
            if not digits.isdigit():
                continue
            length = int(digits)
            if not length or end + len(behind) + length != len(data):
                return None
            if at:
                self._heads.insert(0, self._heads.pop(at))
            self._misses = 0
            return known.head.with_length(digits, length)
        return None

    def learn(self, head: AnswerHead, body: bytes, data: bytes) -> None:
        """Remember the head of an answer that llhttp has read.

        It took `data` between two messages, found one whole answer in it with this head and this body, and
        waits for the next.
        """
        self._misses += 1
        if self._misses > MISSES_IN_A_ROW and self._misses % MISSES_IN_A_ROW:
            return
        size = len(data) - len(body)
        if head.chunked or head.length is None or not 0 < size <= REMEMBERED_BYTES:
            return
        raw = data[:size]
        # Its end, and the end of its lines, are where anybody sees them.
        if data.find(_END) + len(_END) != size or raw.count(b"\n") != raw.count(b"\r\n"):
            return
        lengths = list(_LENGTH.finditer(raw))
        if len(lengths) != 1 or lengths[0].group(1) != head.length or int(head.length) != len(body):
            return
        begin, end = lengths[0].span(1)
        self._heads.insert(0, KnownHead(raw[:begin], raw[end:], head.joined()))
        del self._heads[REMEMBERED:]
