"""Whether counting works, and since when it does not.

An outage is a state that everybody can look at instead of a wait that everybody has: while the breaker is
open, nobody asks Redis but the one round that finds out when it is back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Outage:
    """An outage that has ended: how long it took, and what Redis or its connection last said."""

    seconds: float
    why: str


class Breaker:
    """Opens when counting fails and closes when it works; who listens is told of both, from the loop."""

    __slots__ = ("_clock", "_listeners", "_since", "is_open", "openings", "why")

    def __init__(self, clock: Clock) -> None:
        """Take the clock (s) by which outages are measured."""
        self._clock = clock
        self._listeners: list[Callable[[Outage | None], None]] = []
        self._since = 0.0
        self.is_open = False
        self.openings = 0
        self.why = ""  # the failure that opened it last

    @property
    def outage_s(self) -> float:
        """Return how long the present outage has lasted; 0 without one."""
        return self._clock() - self._since if self.is_open else 0.0

    def listen(self, listener: Callable[[Outage | None], None]) -> None:
        """Call `listener` with None when it opens, and with the outage that ended when it closes."""
        self._listeners.append(listener)

    def open(self, why: str) -> None:
        """Say that counting fails."""
        if self.is_open:
            return
        self.is_open, self.why, self._since = True, why, self._clock()
        self.openings += 1
        for listener in self._listeners:
            listener(None)

    def end(self) -> None:
        """Stay open for good, as nothing is counted any more; nobody is told."""
        self._listeners.clear()
        self.open("counting has ended")

    def close(self) -> None:
        """Say that counting works."""
        if not self.is_open:
            return
        ended = Outage(self.outage_s, self.why)
        self.is_open = False
        for listener in self._listeners:
            listener(ended)
