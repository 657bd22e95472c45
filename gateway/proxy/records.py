"""A worker's cache of key records, and of what follows from them.

A record is trusted until a count says that a newer one exists (`Outcome.STALE`), so a change of the contract
holds from the next call on without anything being pushed. What follows from a record is kept until the first
instant at which it can change by itself.

While the breaker is open the store is not asked: what is cached is used, and nobody waits for the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from gateway.proxy.entry import Entry
from metering.breaker import Breaker
from metering.lookups import EmptiedError, Found, Lookups
from policies.decision import Contract, Reason
from policies.record import KeyRecord

NEGATIVE_MAX = 10_000  # unknown digests remembered at once
# For addresses that guess, digests are looked up one after the other, so many a second, and few may wait.
SLOW_LOOKUPS_PER_S = 50
SLOW_WAITING_MAX = 100
SLOW_WAITING_PER_ADDRESS = 4

log = structlog.get_logger("gateway.records")


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The store of records did not answer."""


class _Question:
    """A digest that is asked for, and who waits for the answer; `asked_at` is None until its turn comes."""

    __slots__ = ("asked_at", "digest", "now", "waiting")

    def __init__(self, digest: str, done: Callable[[Entry | Reason | Unavailable], None]) -> None:
        self.digest = digest
        self.waiting = [done]
        self.now = 0.0
        self.asked_at: float | None = None


class Records:
    """Entries by digest, bounded; keys that do not exist are remembered for a short while."""

    def __init__(
        self,
        lookups: Lookups,
        *,
        contract: Contract,
        capacity: int,
        negative_s: float,
        timeout_s: float,
        clock: Callable[[], float],
        breaker: Breaker,
        doubt: Callable[[float], None],
    ) -> None:
        """Cache what `lookups` find; `doubt` is told of questions it did not answer, by their loop time."""
        self._lookups = lookups
        self._breaker = breaker
        self._doubt = doubt
        self.contract = contract
        self._capacity = capacity
        self._negative_s = negative_s
        self._timeout_s = timeout_s
        self._entries: dict[str, Entry] = {}
        self._unknown: dict[str, float] = {}
        self._fetching: dict[str, _Question] = {}
        self._confirming: dict[str, list[Callable[[bool | Unavailable], None]]] = {}
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._slow: deque[tuple[str, bytes]] = deque()  # digests with the address that asks
        self.judged_at = 0.0  # the latest time at which something was judged that is kept
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: str, now: float) -> Entry | Reason | None:
        """Return the entry of a digest, the reason why it has none, or None when the store has to be
        asked."""
        entry = self._entries.get(digest)
        if entry is not None:
            self.hits += 1
            if now >= entry.until:
                self.renew(entry, entry.record, now)
            return entry
        known_until = self._unknown.get(digest)
        if known_until is not None:
            if now < known_until:
                return Reason.UNKNOWN_KEY
            del self._unknown[digest]
        return None

    def fetch(self, digest: str, now: float, done: Callable[[Entry | Reason | Unavailable], None]) -> None:
        """Ask the store for a digest once for all who want it; `done` is called later, from the loop."""
        known = self._fetching.get(digest)
        if known is not None:
            known.waiting.append(done)
            return
        if self._breaker.is_open:
            asyncio.get_running_loop().call_soon(done, Unavailable())
            return
        question = self._fetching[digest] = _Question(digest, done)
        self._ask(question, now)

    def fetch_slowly(
        self, digest: str, address: bytes, done: Callable[[Entry | Reason | Unavailable], None]
    ) -> bool:
        """Ask the store for a digest in its turn, for an address that guesses; False when too many wait.

        However many guesses come, the store gets one question at a time, and a right key that this worker
        does not know yet is still found.
        """
        known = self._fetching.get(digest)
        if known is not None:
            known.waiting.append(done)
            return True
        if self._breaker.is_open:
            asyncio.get_running_loop().call_soon(done, Unavailable())
            return True
        mine = sum(each == address for _, each in self._slow)
        if mine >= SLOW_WAITING_PER_ADDRESS or len(self._slow) >= SLOW_WAITING_MAX:
            return False
        self._fetching[digest] = _Question(digest, done)
        self._slow.append((digest, address))
        if len(self._slow) == 1:
            slowly = asyncio.get_running_loop().create_task(self._fetch_slowly())
            self._tasks.add(slowly)
            slowly.add_done_callback(self._tasks.discard)
        return True

    async def _fetch_slowly(self) -> None:
        while self._slow:
            digest, _ = self._slow[0]
            answer: asyncio.Future[Entry | Reason | Unavailable] = asyncio.get_running_loop().create_future()
            question = self._fetching[digest]
            question.waiting.append(answer.set_result)
            self._ask(question, self._clock())
            found = await answer
            await asyncio.sleep(1 / SLOW_LOOKUPS_PER_S)
            self._slow.popleft()
            if isinstance(found, Unavailable):  # nobody has to wait for the same to be said
                while self._slow:
                    self._tell(self._fetching[self._slow.popleft()[0]], found)

    def confirm(self, entry: Entry, done: Callable[[bool | Unavailable], None]) -> None:
        """Ask the store whether an entry's record is the newest; `done` gets True when it had to be renewed.

        A refusal that follows from a cached record is confirmed first: what the record forbids may just have
        been paid for. Whoever asks while a question is under way waits for the next one, since this one may
        be too early.
        """
        waiting = self._confirming.get(entry.digest)
        if waiting is not None:
            waiting.append(done)
            return
        if self._breaker.is_open:
            asyncio.get_running_loop().call_soon(done, Unavailable())
            return
        self._confirming[entry.digest] = []
        task = asyncio.get_running_loop().create_task(self._confirm(entry, [done]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _confirm(self, entry: Entry, asking: list[Callable[[bool | Unavailable], None]]) -> None:
        while asking:
            answer: bool | Unavailable
            asked_at = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self._timeout_s):
                    record = await self._lookups.fetch(entry.record.key_id)
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error, asked_at)
                answer = Unavailable()
            except Exception as error:  # noqa: BLE001 - whatever it is, calls wait for an answer
                log.error("key record cannot be used", error=type(error).__name__)
                answer = Unavailable()
            else:
                if record is None:
                    self.forget(entry)
                    answer = Unavailable()
                elif record.revision == entry.record.revision:
                    answer = False
                else:
                    self.renew(entry, record, self._clock())
                    answer = True
            for done in asking:
                done(answer)
            asking, self._confirming[entry.digest] = self._confirming[entry.digest], []
        del self._confirming[entry.digest]

    def renew(self, entry: Entry, record: KeyRecord, now: float) -> None:
        """Put a newer record in the place of an entry's own, or judge the same one at a later time."""
        self.judged_at = max(self.judged_at, now)
        entry.renew(record, self.contract, now)

    def forget(self, entry: Entry) -> None:
        """Drop an entry whose record the store no longer has."""
        self._entries.pop(entry.digest, None)

    def replace_contract(self, contract: Contract) -> None:
        """Judge every record anew at its next call, under changed settings."""
        self.contract = contract
        self.judge_anew()

    def judge_anew(self) -> None:
        """Judge every record anew at its next call, and ask anew for keys that did not exist.

        For a clock that was set back: what was judged at `judged_at` may be what only will be.
        """
        self.judged_at = 0.0
        for entry in self._entries.values():
            entry.until = 0.0
        self._unknown.clear()

    def _ask(self, question: _Question, now: float) -> None:
        self.misses += 1
        loop = asyncio.get_running_loop()
        question.now, question.asked_at = now, loop.time()
        if self._timer is None:
            self._timer = loop.call_at(question.asked_at + self._timeout_s, self._watch)
        self._lookups.seek(question.digest, partial(self._on_found, question))

    def _watch(self) -> None:
        """Give up what was asked too long ago; one timer serves all questions."""
        self._timer = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._timeout_s
        asked = [question for question in self._fetching.values() if question.asked_at is not None]
        for question in asked:
            assert question.asked_at is not None
            if question.asked_at <= oldest:
                self._on_found(question, TimeoutError())
        left = [question.asked_at for question in self._fetching.values() if question.asked_at is not None]
        if left and self._timer is None:
            self._timer = loop.call_at(min(left) + self._timeout_s, self._watch)

    def _on_found(self, question: _Question, found: Found) -> None:
        if self._fetching.get(question.digest) is not question:
            return  # it was given up
        answer: Entry | Reason | Unavailable
        if found is None or isinstance(found, KeyRecord):
            answer = self._keep(question.digest, found, question.now)
        else:
            # A store that lost everything knows no key, and says nothing about any.
            answer = Unavailable()
            if isinstance(found, RedisError | OSError):  # of which a time-out is one
                assert question.asked_at is not None
                self._failed(found, question.asked_at)
            elif not isinstance(found, EmptiedError):
                log.error("key record cannot be used", error=type(found).__name__)
        self._tell(question, answer)

    def _tell(self, question: _Question, found: Entry | Reason | Unavailable) -> None:
        del self._fetching[question.digest]
        for done in question.waiting:
            done(found)

    def _failed(self, error: Exception, asked_at: float) -> None:
        if not self._breaker.is_open:
            log.warning("key record not available", error=type(error).__name__)
            self._doubt(asked_at)

    def _keep(self, digest: str, record: KeyRecord | None, now: float) -> Entry | Reason:
        self.judged_at = max(self.judged_at, now)
        if record is None:
            if len(self._unknown) >= NEGATIVE_MAX:
                self._unknown.clear()
            self._unknown[digest] = now + self._negative_s
            return Reason.UNKNOWN_KEY
        entry = Entry(digest, record, self.contract, now)
        while len(self._entries) >= self._capacity:
            del self._entries[next(iter(self._entries))]
        self._entries[entry.digest] = entry
        return entry
