"""Calls that are let through while they cannot be counted, on routes that say so.

Each key has an allowance of units per worker and outage, and never more than its limit. What is let through
stands in the journal before it is; so does what becomes known of it while the outage lasts. When counting
works again the journal is closed, and whoever brings counts to the ledger brings it in (`metering.replay`).

    refused for the outage <--- allowance spent, journal full or not written
    asked ---> on disk ---> let through ---> settled (journal; the counters once it is closed)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from metering import batches
from metering.batches import Owed, Sent, Take
from metering.breaker import Outage
from metering.journal import Journal, Place
from metering.lanes import AnyCounters
from policies.waiver import Waiver

LOOK_EVERY_S = (
    1.0  # for the end of a spell in which single keys could not be counted, and for journals brought in
)
DIRECTORY = "journal"  # below the data directory
FULL = "the journals that were not brought in yet have reached [stores] journal_max_bytes"
STALLED = "the disk does not answer in time"


class Admission(StrEnum):
    """What became of a call that asked to be let through."""

    ADMITTED = "admitted"
    OVER_ALLOWANCE = "over_allowance"
    JOURNAL_FULL = "journal_full"
    JOURNAL_FAILED = "journal_failed"


Admitted = Callable[[Admission], None]
Listener = Callable[[str | None], None]  # why nothing can be written any more, None when it can again


class OpenCalls:
    """The open calls of one process. All methods belong to one event loop."""

    def __init__(
        self,
        counters: AnyCounters,
        directory: Path,
        *,
        allowance: int,
        journal_max_bytes: int,
        deadline_s: float,
    ) -> None:
        """Take over for `counters` in an outage, with journals in `directory`, which is made when needed.

        `allowance` is in units. A call is answered within `deadline_s`. No call is let through once the
        journals that were not brought in yet hold `journal_max_bytes`.
        """
        self._counters = counters
        self._directory = directory
        self._allowance = allowance
        self._max_bytes = journal_max_bytes
        self._deadline_s = deadline_s
        self._journal: Journal | None = None
        self._closed: dict[Path, int] = {}  # journals that wait to be brought in, with their bytes
        self._spent: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._listeners: list[Listener] = []
        self.calls = dict.fromkeys(Admission, 0)
        self.unkept = 0  # of what `keep` was given, key days that could not be written and are lost
        self.failure: str | None = None  # why nothing can be let through: the journal cannot be written

    async def start(self) -> None:
        """Begin to watch for outages."""
        self._counters.breaker.listen(self._on_change)
        self._task = asyncio.get_running_loop().create_task(self._look(), name="open calls")

    def listen(self, listener: Listener) -> None:
        """Have `listener` called when calls can no longer be written down, and when they can again."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Write what is queued; journals that were not brought in stay for whoever comes next."""
        self._is_ending = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._close_journal()
        if self._closing:
            await asyncio.wait(self._closing)

    def keep(self, unsettled: Mapping[Place, Owed], in_doubt: Sequence[Sent] = ()) -> None:
        """Write what the counters could not settle before they were closed, on whatever route it came.

        What is in doubt gets journals of its own, which settle it under the numbers that it was sent with.
        """
        for place, owed in unsettled.items():
            self._open_journal().append(place, owed, self._on_kept)
        for sent in in_doubt:
            journal = Journal(self._directory, deadline_s=self._deadline_s, again=sent)
            for place, owed in sent.owed.items():
                journal.append(place, owed, self._on_kept)
            self._finish_soon(journal)

    @property
    def journal_bytes(self) -> int:
        """Return how much this process has written that is not known to be brought in."""
        return sum(self._closed.values()) + (0 if self._journal is None else self._journal.bytes)

    def admit(self, take: Take, now: float, done: Admitted) -> None:
        """Let a call of `now` (epoch s) through if its key has units left.

        `done` is told later, from the loop. The call counts on the day of its take, whatever its key's record
        says by then.
        """
        refusal = self._refusal(take)
        if refusal is not None:
            self._answer(done, refusal)
            return
        self._spend(take, take.cost)
        owed, revoke = Owed(), Owed()
        batches.admit(owed, take, now)
        batches.waive(revoke, take, Waiver.NOT_FORWARDED)

        journal = self._open_journal()

        def written(on_disk: bool) -> None:
            if not on_disk:
                self._spend(take, -take.cost)
            admission = Admission.ADMITTED if on_disk else Admission.JOURNAL_FAILED
            self.calls[admission] += 1
            if not on_disk:
                self._note(journal.failure or STALLED)
            elif self.journal_bytes < self._max_bytes:
                self._note(None)
            done(admission)

        journal.append((take.key_id, take.day), owed, written, revoke)

    def waive(self, take: Take, waiver: Waiver) -> None:
        """Settle a call that was let through and is not charged."""
        owed = Owed()
        batches.waive(owed, take, waiver)
        self._settle((take.key_id, take.day), owed, lambda: self._counters.waive(take, waiver))

    def charge_more(self, take: Take, units: int) -> None:
        """Settle a call that was let through and cost `units` more; this may pass the allowance."""
        owed = Owed()
        batches.charge_more(owed, take, units)
        self._spend(take, units)
        self._settle((take.key_id, take.day), owed, lambda: self._counters.charge_more(take, units))

    def _on_kept(self, on_disk: bool) -> None:
        self.unkept += not on_disk

    def _refusal(self, take: Take) -> Admission | None:
        allowed = self._allowance if take.limit is None else min(self._allowance, take.limit)
        if self._spent.get(take.key_id, 0) + (1 if take.priced_later else take.cost) > allowed:
            return Admission.OVER_ALLOWANCE
        if self.journal_bytes >= self._max_bytes:
            self._note(FULL)
            return Admission.JOURNAL_FULL
        if self._journal is not None and self._journal.is_stalled:
            return Admission.JOURNAL_FAILED
        return None

    def _answer(self, done: Admitted, refusal: Admission) -> None:
        self.calls[refusal] += 1
        asyncio.get_running_loop().call_soon(done, refusal)

    def _note(self, failure: str | None) -> None:
        """Tell of the first failure and of the end of all, not of each."""
        told, self.failure = self.failure, failure
        if (failure is None) != (told is None):
            for listener in self._listeners:
                listener(failure)

    def _spend(self, take: Take, units: int) -> None:
        self._spent[take.key_id] = self._spent.get(take.key_id, 0) + units

    def _settle(self, place: Place, owed: Owed, in_memory: Callable[[], None]) -> None:
        """Write a settlement beside the call, or leave it to the counters when that journal is closed."""
        if self._journal is None:
            in_memory()
        elif owed.fields or owed.buckets:
            self._journal.append(place, owed, lambda on_disk: None if on_disk else in_memory())

    def _open_journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._directory, deadline_s=self._deadline_s)
        return self._journal

    def _close_journal(self) -> None:
        self.failure = None  # nobody asks to be let through any more
        journal, self._journal = self._journal, None
        if journal is not None:
            self._finish_soon(journal)

    def _finish_soon(self, journal: Journal) -> None:
        task = asyncio.get_running_loop().create_task(self._finish(journal), name="close a journal")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _finish(self, journal: Journal) -> None:
        while not await journal.close():
            if self._is_ending:
                return  # the end of this process lets go of the file
            await asyncio.sleep(LOOK_EVERY_S)
        self._closed[journal.path] = journal.bytes

    def _on_change(self, ended: Outage | None) -> None:
        if ended is not None:
            self._close_journal()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._journal is not None and not self._counters.breaker.is_open:
                self._close_journal()
            if self._closed:
                there = await asyncio.to_thread(_existing, list(self._closed))
                self._closed = {path: size for path, size in self._closed.items() if path in there}
            if not self._closed and self._journal is None and not self._closing:
                self._spent.clear()


def _existing(paths: list[Path]) -> set[Path]:
    return {path for path in paths if path.exists()}
