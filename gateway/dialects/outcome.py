"""Readers of outcomes: fed with an answer's bytes as they pass, they tell whether the call is charged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.dialects.coding import Decoder, UnreadableCodingError
from gateway.dialects.items import ItemCounter
from policies.waiver import Waiver

# The outcome stands in the first line of an answer; far more than a description's length is allowed for.
PREFIX_BYTES = 8 * 1024
# Elements are counted in what an answer inflates to, as long as it inflates like text: gzip can make a
# thousand bytes of one.
INFLATED_FREE_BYTES = 1024 * 1024
INFLATED_RATIO_MAX = 100

Judge = Callable[[bytes, bool], tuple[bool, Waiver | None]]


class OutcomeReader:
    """Reads one answer's outcome.

    `verdict` is why the call is waived, None when it is charged, and holds once `known`. `items` is the
    number of counted elements, None when nothing is to be counted or nothing could be.
    """

    __slots__ = ("items", "known", "verdict")

    def __init__(self, verdict: Waiver | None, known: bool) -> None:
        self.verdict = verdict
        self.known = known
        self.items: int | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes of the body as the upstream sent them."""
        raise NotImplementedError

    def finish(self, complete: bool) -> None:
        """Take note of the answer's end; `complete` is False when it broke off."""
        raise NotImplementedError


class StatusReader(OutcomeReader):
    """Judges by the HTTP status alone; a status of `good_below` or more is a failure."""

    __slots__ = ("_counting",)

    def __init__(
        self,
        status: int,
        codings: Sequence[bytes],
        counter: ItemCounter | None,
        good_below: int = 400,
    ) -> None:
        super().__init__(Waiver.HTTP_STATUS if status >= good_below else None, known=True)
        self._counting = None if counter is None else _Counting(codings, counter)

    def feed(self, data: bytes) -> None:
        """Count elements, where there are any to count."""
        if self._counting is not None:
            self._counting.feed(data)

    def finish(self, complete: bool) -> None:
        """Settle the number of elements."""
        if self._counting is not None:
            self.items = self._counting.total()


class PrefixReader(OutcomeReader):
    """Judges by the beginning of the body, of which it keeps no more than it needs."""

    __slots__ = ("_counting", "_decoder", "_judge", "_prefix")

    def __init__(self, judge: Judge, codings: Sequence[bytes], counter: ItemCounter | None) -> None:
        super().__init__(None, known=False)
        self._judge = judge
        self._prefix = b""
        self._decoder = Decoder(codings) if codings else None  # None for an answer as it is
        self._counting = None if counter is None else _Counting(codings, counter)

    def feed(self, data: bytes) -> None:
        """Look at the body's beginning until it tells the outcome."""
        if not self.known:
            self._look(data)
        if self._counting is not None and not (self.known and self.verdict):
            self._counting.feed(data)

    def finish(self, complete: bool) -> None:
        """Settle the outcome; what could not be read until now was not delivered."""
        if not self.known:
            self.known, self.verdict = (
                self._judge(self._prefix, True) if complete else (True, Waiver.UPSTREAM_BROKEN)
            )
        if self._counting is not None and self.verdict is None:
            self.items = self._counting.total()

    def _look(self, data: bytes) -> None:
        if self._decoder is None and not self._prefix:
            # Nearly always the first bytes tell all, and nothing has to be kept.
            self.known, self.verdict = self._judge(data[:PREFIX_BYTES], len(data) >= PREFIX_BYTES)
            if not self.known:
                self._prefix = data
            return
        try:
            for piece in (data,) if self._decoder is None else self._decoder.decode(data, PREFIX_BYTES):
                self._prefix += piece[: PREFIX_BYTES - len(self._prefix)]
                if len(self._prefix) >= PREFIX_BYTES:
                    break
        except UnreadableCodingError:
            self.known, self.verdict = True, Waiver.UPSTREAM_BROKEN
            return
        self.known, self.verdict = self._judge(self._prefix, len(self._prefix) >= PREFIX_BYTES)
        if self.known:
            self._prefix = b""


class _Counting:
    """Decodes an answer and counts in it, giving up quietly where it cannot be read."""

    def __init__(self, codings: Sequence[bytes], counter: ItemCounter) -> None:
        self._decoder = Decoder(codings)
        self._counter = counter
        self._readable = True
        self._room = INFLATED_FREE_BYTES

    def feed(self, data: bytes) -> None:
        if not self._readable:
            return
        self._room += INFLATED_RATIO_MAX * len(data)
        try:
            for piece in self._decoder.decode(data):
                self._room -= len(piece)
                if self._room < 0:
                    raise UnreadableCodingError("a bomb")
                self._counter.feed(piece)
        except UnreadableCodingError:
            self._readable = False

    def total(self) -> int:
        return self._counter.count
