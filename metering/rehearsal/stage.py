"""What a rehearsal plays on: the ledger to throw away, the clock, and what is known of each customer."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.billing.terms import Terms
from metering.ledger.audit import Author
from metering.rehearsal.books import Books
from metering.rehearsal.fleet import Customer
from policies.period import Period

BY = Author("rehearsal")
LANES = 4  # customers who act at a time, each on a connection
TOGETHER = 500  # deeds of one kind in one transaction

Happening = Callable[[float], Awaitable[None]]  # takes the instant at which it happens, in epoch seconds


@dataclass(slots=True)
class Member:
    """A customer with what is known of it so far."""

    customer: Customer
    books: Books = field(default_factory=Books)
    account_id: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # by site


@dataclass(frozen=True, slots=True)
class Deed:
    """What a customer does, or is done about it, at an instant in epoch seconds; `given` is for `doing`."""

    at: float
    member: Member
    doing: Doing
    given: tuple[Any, ...] = ()


# Does deeds of one kind, at most one a customer.
Doing = Callable[["Stage", Sequence[Deed]], Awaitable[None]]


@dataclass(slots=True)
class Stage:
    """The ledger and a queue of what happens; `wrong` gathers what did not go as planned."""

    engine: AsyncEngine
    terms: Terms
    span: Period
    seed: int
    wrong: list[str] = field(default_factory=list)
    _queue: list[tuple[float, int, Happening | Deed]] = field(default_factory=list)
    _order: int = 0

    @property
    def zone(self) -> ZoneInfo:
        """The billing timezone."""
        return self.terms.zone

    @property
    def next_at(self) -> float | None:
        """When the next thing happens, None when nothing does."""
        return self._queue[0][0] if self._queue else None

    def at(self, instant: float, happening: Happening) -> None:
        """Queue what is about all customers; of one instant, the first queued comes first."""
        self._push(instant, happening)

    def plan(self, at: float, member: Member, doing: Doing, *given: Any) -> None:
        """Queue what a customer does; of one instant, the first queued comes first."""
        self._push(at, Deed(at, member, doing, given))

    async def play(self) -> None:
        """Do what comes next: one thing that is about all, or the next deed of each customer before that.

        Customers do nothing to each other, so their deeds are done kind by kind, and each customer's in the
        order of its own time.
        """
        instant, _, what = self._queue[0]
        if not isinstance(what, Deed):
            heapq.heappop(self._queue)
            await what(instant)
            return
        due: dict[int, Deed] = {}
        later = []
        while self._queue and isinstance(deed := self._queue[0][2], Deed):
            entry = heapq.heappop(self._queue)
            if due.setdefault(id(deed.member), deed) is not deed:
                later.append(entry)
        for entry in later:
            heapq.heappush(self._queue, entry)
        kinds: dict[Doing, list[Deed]] = {}
        for deed in due.values():
            kinds.setdefault(deed.doing, []).append(deed)
        for doing, deeds in kinds.items():
            for start in range(0, len(deeds), TOGETHER):
                await doing(self, deeds[start : start + TOGETHER])

    def _push(self, instant: float, what: Happening | Deed) -> None:
        self._order += 1
        heapq.heappush(self._queue, (instant, self._order, what))


def one_by_one(do: Callable[..., Awaitable[None]]) -> Doing:
    """Return how deeds are done that have a transaction each: side by side, on a few connections.

    `do` takes the stage, the member, the instant, and what was given.
    """

    async def doing(stage: Stage, deeds: Sequence[Deed]) -> None:
        waiting = iter(deeds)

        async def lane() -> None:
            for deed in waiting:
                await do(stage, deed.member, deed.at, *deed.given)

        await asyncio.gather(*(lane() for _ in range(min(LANES, len(deeds)))))

    return doing
