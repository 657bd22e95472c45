"""The live counters: calls are counted in batches, each exactly once.

While one round trip to Redis is under way, the calls that arrive meanwhile wait and form the next one. A
round carries one batch of takes and one of settlements. Each has a number that grows by one, and a script
ignores a number that it has seen, so a round whose reply was lost is sent again until it is answered, and
never counts twice.

    queued ---> in flight ---> granted | exhausted | stale | missing
       |            |
       +------------+--------> unavailable once the deadline has passed; what is granted after that is waived

What is settled (waived units, further units, denied calls) is summed up in memory until Redis has taken it.

A round that is older than the deadline opens the breaker: calls are answered at once from then on, and the
round, which is sent again until it is answered, finds out when counting works again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import hiredis

from metering import batches
from metering.batches import (
    UNAVAILABLE,
    Done,
    Groups,
    Outcome,
    Owed,
    Place,
    Sent,
    Take,
    TakeBatch,
    Taken,
    encode_settlement,
)
from metering.breaker import Breaker
from metering.clients import Client, wire_to
from metering.commands import Command, is_unknown_script, load
from metering.scripts import SETTLE, TAKE
from metering.wire import LOST
from policies.decision import Reason
from policies.waiver import Waiver

__all__ = ["Counters", "Outcome", "Take", "Taken"]

MAX_ENTRIES = 512  # a longer batch would keep Redis from others for more than a few milliseconds
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25  # between attempts while Redis fails
HELD_S = 1.0  # until what is owed to a key without a record is tried again
DAY_S = 86_400


class Counters:
    """Counts the calls of one process. All methods belong to one event loop."""

    def __init__(
        self,
        redis: Client,
        *,
        writer: str,
        deadline_s: float,
        retention_days: int,
        replicas: int = 0,
        sign_of_life: Command = ("PING",),
    ) -> None:
        """Take the address of Redis from `redis`; `writer` names the process in what it counts.

        Numbers begin at one with every start, so a start of its own is part of the writer's name. A call is
        answered within `deadline_s`, and counted when so many `replicas` have its count. The hash of a day is
        dropped `retention_days` after a process first counted in it. `sign_of_life` is a command that changes
        nothing.
        """
        self._wire = wire_to(redis, replicas=replicas)
        self._sign_of_life = sign_of_life
        self._writer = f"{writer}-{secrets.token_hex(4)}"
        self._deadline_s = deadline_s
        self._ttl_s = retention_days * DAY_S
        self._groups: Groups = {}
        self._owed: dict[Place, Owed] = {}
        self._held: dict[Place, Owed] = {}
        self._since = 0.0  # loop time since which the oldest of `_groups` waits
        self._flight: _Round | None = None
        self._number = 0
        self._is_begun = False
        self._doubted_since: float | None = None
        self._closing = self._closed = False
        self._is_due = False  # a round is about to begin
        self._all_sent = asyncio.Event()  # nothing is left, after `close` was called
        self._timer: asyncio.TimerHandle | None = None
        self._held_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # carries a round that needs more than one attempt
        self.breaker = Breaker(time.monotonic)
        self.last_error: str | None = (
            None  # why the round in flight has to be sent again; None while all is well
        )

    async def start(self) -> None:
        """Begin to count; Redis may be away."""
        self.begin()

    def begin(self) -> None:
        """Begin to count, at once."""
        self._loop = asyncio.get_running_loop()
        self._is_begun = True
        self.doubt(self._loop.time())

    async def close(self) -> None:
        """Send what is queued, for `deadline_s` at most; calls that still wait are answered UNAVAILABLE."""
        if not self._is_begun:
            return
        self._closing = True
        self._release()
        self._rouse()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_sent.wait(), self._deadline_s)
        self._closed = True
        self._all_sent.set()  # or nothing more will be
        while self._task is not None and not self._task.done():
            self._task.cancel()
            # What the client library waits with may swallow it (`asyncio.wait_for` of Python 3.11).
            await asyncio.wait({self._task}, timeout=LONGEST_PAUSE_S)
        self.breaker.end()
        self._give_up()
        for timer in (self._timer, self._held_timer):
            if timer is not None:
                timer.cancel()
        await self._wire.close()

    def unsettled(self) -> dict[Place, Owed]:
        """Return what was to be settled and never sent, after `close`."""
        self._release()
        owed, self._owed = self._owed, {}
        return owed

    def in_doubt(self) -> list[Sent]:
        """Return the settlement that was sent and not answered, after `close`, where there is one."""
        due = [] if self._flight is None else self._flight.owed
        owed = {place: each for some in due for place, each in some.items()}
        return [Sent(self._writer, self._number, owed)] if owed else []

    @property
    def pending(self) -> int:
        """Return how many calls wait for their count, and how many (key, day) wait for their settlement."""
        calls = sum(len(waiting) - 1 for waiting in self._groups.values())
        flight = 0 if self._flight is None else self._flight.pending
        return calls + flight + len(self._owed) + len(self._held)

    def take(self, take: Take, now: float, done: Done) -> None:
        """Count a call that came at `now` (epoch s); `done` gets the result later, from the loop."""
        if self.breaker.is_open:
            self._loop.call_soon(done, UNAVAILABLE)
            return
        waiting = self._groups.get(take)
        if waiting is not None:
            waiting.append(done)
            return
        if not self._groups:
            self._since = self._loop.time()
            self._rouse()
        self._groups[take] = [now, done]

    def doubt(self, since: float) -> None:
        """Find out whether Redis answers, which somebody saw it not do who asked it at `since` (loop time).

        The first that hear of an outage are often those who look for a key. Without a count under way, a sign
        of life is asked for.
        """
        if self._doubted_since is None and self._flight is None:
            self._doubted_since = since
            self._rouse()

    def waive(self, take: Take, waiver: Waiver) -> None:
        """Settle a granted call that is not charged: its quota comes back, and its price where it has one."""
        batches.waive(self._owed_to(take.key_id, take.day), take, waiver)

    def charge_more(self, take: Take, units: int) -> None:
        """Settle a granted call that cost `units` more than was taken; this may pass the limit."""
        if units:
            batches.charge_more(self._owed_to(take.key_id, take.day), take, units)

    def deny(self, key_id: str, day: str, reason: Reason) -> None:
        """Count a call that was refused before it was taken."""
        self._owed_to(key_id, day).add(f"d:{reason.value}", 1)

    def _owed_to(self, key_id: str, day: str) -> Owed:
        owed = self._owed.get((key_id, day))
        if owed is None:
            owed = self._owed[(key_id, day)] = Owed()
            self._rouse()
        return owed

    def _rouse(self) -> None:
        """Begin a round soon, with all that the loop still has at hand, unless one is under way."""
        if self._flight is None and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self._is_due = False
        if self._closed:
            return
        if not self._has_more():
            if self._closing:
                self._closed = True  # what came now could be counted, and refused all the same
                self._all_sent.set()
            return
        flight = self._flight = self._next_round()
        commands = [command for command, _ in flight.parts]
        try:
            asked = self._wire.ask(commands, partial(self._on_replies, flight))
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one round, not the counting
            self._break_off(error)
            return
        if not asked:  # a task is made for a round that goes another way than almost all do
            self._task = self._loop.create_task(self._carry(flight), name="counters")

    def _on_replies(self, flight: _Round, replies: list[Any] | Exception) -> None:
        if self._closed:
            return
        try:
            answered = not isinstance(replies, Exception) and self._take_in(flight, replies)
        except Exception as error:  # noqa: BLE001 - as above
            self._break_off(error)
        else:
            if answered:
                self._end_round()
            else:
                self._task = self._loop.create_task(self._carry(flight, replies), name="counters")

    def _end_round(self) -> None:
        self._flight = None
        self.last_error = None
        self.breaker.close()
        if self._closing or self._has_more():  # a turn of the loop for nothing would cost more than the look
            self._rouse()

    def _has_more(self) -> bool:
        return bool(self._groups or self._owed) or self._doubted_since is not None

    def _break_off(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a round of counts failed", "exception": error})
        self._give_up()
        self._end_round()

    def _next_round(self) -> _Round:
        self._number += 1
        now = self._loop.time()
        if len(self._groups) <= MAX_ENTRIES:
            groups, self._groups = self._groups, {}
        else:
            groups = {take: self._groups.pop(take) for take in list(islice(self._groups, MAX_ENTRIES))}
        owed = {place: self._owed.pop(place) for place in list(islice(self._owed, MAX_ENTRIES))}
        made = _Round(self._since if groups else now)
        apart = self._wire.one_shard
        if groups:
            for some in batches.by_shard(groups) if apart else (groups,):
                batch = TakeBatch(some, self._writer, self._number, self._ttl_s)
                made.takes.append(batch)
                made.parts.append((batch.command, partial(self._taken, made, batch)))
        if owed:
            for due in batches.by_shard(owed) if apart else (owed,):
                made.owed.append(due)
                command = encode_settlement(due, self._writer, self._number, self._ttl_s)
                made.parts.append((command, partial(self._settled, made, due)))
        doubted, self._doubted_since = self._doubted_since, None
        if not made.parts:
            made.parts.append((self._sign_of_life, _ignore))
            # Whoever doubted has waited already; the sign of life still gets a quarter of the deadline.
            made.since = max(doubted or 0.0, now - 0.75 * self._deadline_s)
        if self._timer is None:
            self._timer = self._loop.call_at(made.since + self._deadline_s, self._watch)
        return made

    async def _carry(self, flight: _Round, replies: list[Any] | Exception | None = None) -> None:
        """Send a round until each of its parts is answered; `replies` are those of a first attempt."""
        try:
            await self._attempt(flight, replies)
        except Exception as error:  # noqa: BLE001 - as above
            self._break_off(error)
        else:
            self._end_round()

    async def _attempt(self, flight: _Round, replies: list[Any] | Exception | None) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if isinstance(replies, Exception):
                    raise replies
                if replies is None:
                    replies = await self._wire.exchange([command for command, _ in flight.parts])
                    if self._take_in(flight, replies):
                        return
                if any(map(is_unknown_script, replies)):
                    loaded = await self._wire.exchange([load(TAKE), load(SETTLE)])
                    if not any(isinstance(reply, hiredis.ReplyError) for reply in loaded):
                        replies = None
                        continue
                # A server that answers so (loading, read-only, out of memory) may be the wrong one by now.
                await self._wire.close()
            except LOST as error:
                self.last_error = str(error) or type(error).__name__
            replies = None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _take_in(self, flight: _Round, replies: list[Any]) -> bool:
        """Tell what was answered to whom it concerns; returns whether nothing is left to send."""
        unanswered = []
        for part, reply in zip(flight.parts, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                unanswered.append(part)
                self.last_error = str(reply)
            else:
                part[1](reply)
        flight.parts = unanswered
        return not unanswered

    def _taken(self, flight: _Round, batch: TakeBatch, replies: list[Any]) -> None:
        # Whoever waits for an answer that cannot be read is answered by giving up.
        groups = list(batch.read(replies))
        flight.takes.remove(batch)
        for take, waiting, calls, granted, otherwise in groups:
            if not flight.given_up:
                self._answer(waiting, 1, calls + 1, granted)
                if calls + 1 < len(waiting):
                    self._answer(waiting, calls + 1, len(waiting), otherwise)
            elif calls:
                owed = self._owed_to(take.key_id, take.day)
                batches.waive(owed, take, Waiver.NOT_FORWARDED, calls)

    def _settled(self, flight: _Round, due: dict[Place, Owed], replies: list[Any]) -> None:
        for (place, owed), applied in zip(due.items(), replies, strict=True):
            if applied != 1:
                self._hold(place, owed)
        flight.owed.remove(due)

    def _hold(self, place: tuple[str, str], owed: Owed) -> None:
        """Keep what is owed to a key whose counters are being restored."""
        held = self._held.get(place)
        if held is None:
            self._held[place] = owed
        else:
            held.merge(owed)
        if self._held_timer is None and not self._closing:
            self._held_timer = self._loop.call_later(HELD_S, self._release)

    def _release(self) -> None:
        self._held_timer = None
        held, self._held = self._held, {}
        for place, owed in held.items():
            self._owed_to(*place).merge(owed)

    def _watch(self) -> None:
        """Look at the longest wait when it may have reached the deadline; one timer serves all calls."""
        self._timer = None
        if self._flight is not None:
            since = self._flight.since
        elif self._groups:
            since = self._since
        else:
            return
        due = since + self._deadline_s
        if due <= self._loop.time():
            self.breaker.open(self.last_error or "Redis did not answer in time")
            self._give_up()
            self.doubt(due)  # with no round under way, nothing else would find out that counting works
        else:
            self._timer = self._loop.call_at(due, self._watch)

    def _give_up(self) -> None:
        """Answer all that wait UNAVAILABLE; what the round in flight still grants is waived."""
        groups, self._groups = self._groups, {}
        if self._flight is not None and not self._flight.given_up:
            self._flight.given_up = True
            for batch in self._flight.takes:
                for waiting in batch.waiting():
                    self._answer(waiting, 1, len(waiting), UNAVAILABLE)
        for waiting in groups.values():
            self._answer(waiting, 1, len(waiting), UNAVAILABLE)

    def _answer(self, waiting: list[Any], first: int, last: int, taken: Taken) -> None:
        for index in range(first, last):
            try:
                waiting[index](taken)
            except Exception as error:  # noqa: BLE001 - one caller's mistake must not cost the others their answer
                self._loop.call_exception_handler({"message": "a counted call failed", "exception": error})


def _ignore(reply: Any) -> None:
    """Any answer is a sign of life."""


class _Round:
    """What is sent in one round trip: commands with what takes their reply."""

    __slots__ = ("given_up", "owed", "parts", "since", "takes")

    def __init__(self, since: float) -> None:
        self.since = since
        self.parts: list[tuple[Command, Callable[[list[Any]], None]]] = []
        self.takes: list[TakeBatch] = []  # those that are not answered yet
        self.owed: list[dict[Place, Owed]] = []  # the same
        self.given_up = False

    @property
    def pending(self) -> int:
        calls = sum(len(waiting) - 1 for batch in self.takes for waiting in batch.waiting())
        return calls + sum(map(len, self.owed))
