"""What a rehearsal plays on: the ledger to throw away, the clock, and what is known of each customer."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.billing.terms import Terms
from metering.ledger.audit import Author
from metering.rehearsal.books import Books
from metering.rehearsal.fleet import Customer
from policies.period import Period

BY = Author("rehearsal")
LANES = 4  # customers who act at a time, each on a connection

Happening = Callable[[float], Awaitable[None]]  # takes the instant at which it happens, in epoch seconds


@dataclass(slots=True)
class Member:
    """A customer with what is known of it so far."""

    customer: Customer
    books: Books = field(default_factory=Books)
    account_id: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # by site


@dataclass(slots=True)
class Stage:
    """The ledger and a queue of what happens; `wrong` gathers what did not go as planned."""

    engine: AsyncEngine
    terms: Terms
    span: Period
    seed: int
    wrong: list[str] = field(default_factory=list)
    _queue: list[tuple[float, int, Member | None, Happening]] = field(default_factory=list)
    _order: int = 0

    @property
    def zone(self) -> ZoneInfo:
        """The billing timezone."""
        return self.terms.zone

    @property
    def next_at(self) -> float | None:
        """When the next thing happens, None when nothing does."""
        return self._queue[0][0] if self._queue else None

    def at(self, instant: float, happening: Happening, member: Member | None = None) -> None:
        """Queue what happens, to one member alone where one is given; the first queued comes first."""
        self._order += 1
        heapq.heappush(self._queue, (instant, self._order, member, happening))

    async def play(self, until: float) -> None:
        """Do what comes next before `until`: one thing that is about all, or all that single customers do.

        Customers do nothing to each other, so they act side by side, each in the order of its own time.
        """
        instant, _, member, happening = heapq.heappop(self._queue)
        if member is None:
            await happening(instant)
            return
        acts = {id(member): [(instant, happening)]}
        while self._queue and self._queue[0][0] < until:
            instant, _, member, happening = self._queue[0]
            if member is None:
                break
            heapq.heappop(self._queue)
            acts.setdefault(id(member), []).append((instant, happening))
        waiting = iter(acts.values())
        await asyncio.gather(*(_act(waiting) for _ in range(min(LANES, len(acts)))))


async def _act(waiting: Iterator[list[tuple[float, Happening]]]) -> None:
    """Take one customer after the other, and do what each does."""
    for acts in waiting:
        for instant, happening in acts:
            await happening(instant)
