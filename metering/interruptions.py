"""Interruptions: another server, or another process, holds keys than at the last roll-up. Pure.

What was counted after that roll-up and had not reached whoever took over is in no other place. How much it
was nobody knows; that it may be something, for which keys and between which moments, is told here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from metering.histories import History, Slots


class Kind(StrEnum):
    """What happened to a server that held keys."""

    FAILOVER = "failover"  # a replica took over
    RESTART = "restart"  # another process answers at its address
    REPLACEMENT = "replacement"  # another server has its keys, and does not say that it followed it
    EMPTIED = "emptied"  # the same process has older data or none


class Evidence(StrEnum):
    """What is known of the counts of the window."""

    CONFIRMED = "confirmed"  # whole: every count waited for a replica, and what was seen before is there
    PROVEN = "proven"  # whole: the former server says itself that it had nothing more
    UNKNOWN = "unknown"  # all that was seen at the last roll-up is there; what came later may lack
    BEHIND = "behind"  # what was seen at the last roll-up was not all there; what came later is gone

    @property
    def is_whole(self) -> bool:
        """Say whether nothing lacks."""
        return self in (Evidence.CONFIRMED, Evidence.PROVEN)


@dataclass(frozen=True, slots=True)
class Kept:
    """A server as the last roll-up that came through found it, `at` the moment when that began.

    `mark` is what the roll-up left in `shard`, 0 for nothing. `replicas` had to have each count.
    """

    history: History
    at: datetime
    shard: str | None
    mark: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Somebody else than `kept` holds the keys of `slots`."""

    kept: Kept
    successor: History
    slots: Slots
    kind: Kind
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Interruption:
    """A finding as the ledger keeps it: calls of `slots` between `since` and `until` may lack in the count.

    `seen_offset` is how far the former server's history went at the last roll-up, `reached_offset` how far
    its successor has it; None when it does not have it at all.
    """

    id: str
    kind: Kind
    evidence: Evidence
    since: datetime
    until: datetime
    slots: Slots
    former_address: str
    former_run_id: str
    former_replid: str
    seen_offset: int
    address: str
    run_id: str
    replid: str
    reached_offset: int | None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    reason: str | None = None

    @property
    def is_open(self) -> bool:
        """Say whether counts may lack and nobody has taken note of it."""
        return not self.evidence.is_whole and self.acknowledged_at is None


def find(
    kept: Sequence[Kept],
    seen: Sequence[History],
    marks: Mapping[str, int],
    *,
    replicas: int,
    machine_died: bool = False,
) -> list[Finding]:
    """Return what became of servers that do not go on as they were; `marks` are those in the shards now.

    Slots that move between servers that go on are none, nor is a restart that brought everything back out of
    an append-only file, unless the machine died: what was not synced yet is not in the file then.
    """
    known = {each.history.run_id for each in kept}
    by_process = {each.run_id: each for each in seen}
    found = []
    for former in kept:
        is_older = former.shard is not None and marks.get(former.shard, 0) < former.mark
        same = by_process.get(former.history.run_id)
        if same is not None:
            finding = _same_process(former, same, is_older)
        else:
            finding = _gone(former, seen, known, is_older, replicas, machine_died)
        if finding is not None:
            found.append(finding)
    return found


def named(finding: Finding, until: datetime) -> Interruption:
    """Return a finding as it is written down; the same one gets the same id whoever finds it."""
    former, successor = finding.kept.history, finding.successor
    since = finding.kept.at
    mark = str(finding.kept.mark)  # higher after every roll-up, whatever the clock says
    parts = (former.run_id, former.replid, since.isoformat(), mark, successor.run_id, successor.replid)
    followed = successor.former_replid == former.replid
    return Interruption(
        id=f"int_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}",
        kind=finding.kind,
        evidence=finding.evidence,
        since=since,
        until=until,
        slots=finding.slots,
        former_address=former.address,
        former_run_id=former.run_id,
        former_replid=former.replid,
        seen_offset=former.offset,
        address=successor.address,
        run_id=successor.run_id,
        replid=successor.replid,
        reached_offset=successor.former_offset if followed else None,
    )


def proves(answer: History | None, of: Interruption) -> bool:
    """Say whether a server of before, asked afterwards, shows that nothing of its history is missing.

    It goes on in the successor's history from where its own ended, as the process that it was: so all it had
    written lies before that point, and the successor has everything before it.
    """
    return (
        answer is not None
        and of.reached_offset is not None
        and answer.run_id == of.former_run_id
        and answer.replid == of.replid
        and answer.former_replid == of.former_replid
        and answer.former_offset is not None
        and of.seen_offset <= answer.former_offset <= of.reached_offset
    )


def explained(interruption: Interruption) -> str:
    """Return in sentences what happened, and what is known and not known of the counts."""
    former, now = interruption.former_address, interruption.address
    match interruption.kind:
        case Kind.FAILOVER if former == now:
            text = f"{now} followed another server for a while and has that one's counts"
        case Kind.FAILOVER:
            text = f"{now} took over from {former}"
        case Kind.RESTART:
            text = f"{now} was restarted, or replaced behind its address"
        case Kind.REPLACEMENT:
            text = f"{now} has the keys of {former} and did not follow it"
        case Kind.EMPTIED:
            text = f"{now} has older data than it had"
    match interruption.evidence:
        case Evidence.CONFIRMED:
            return f"{text}; every count had waited for a replica, so that none is missing"
        case Evidence.PROVEN:
            return f"{text}; {former} says itself that it had written nothing more, so that none is missing"
        case Evidence.UNKNOWN:
            return (
                f"{text}; what stood there at the last roll-up is there, and what came later and was not "
                "copied in time is not; how much that was is not known, it may be nothing"
            )
        case Evidence.BEHIND:
            return (
                f"{text}; it did not have all that was there when the last roll-up ended: what the ledger "
                "has of it was raised again, and what was counted later is gone"
            )


def _same_process(kept: Kept, now: History, is_older: bool) -> Finding | None:
    if is_older:
        return Finding(kept, now, kept.history.slots, Kind.EMPTIED, Evidence.BEHIND)
    goes_on = now.replid == kept.history.replid or now.former_replid in (None, kept.history.replid)
    if goes_on:
        return None
    # It was a replica meanwhile, and has the history of whoever was the master.
    return Finding(kept, now, kept.history.slots, Kind.FAILOVER, Evidence.UNKNOWN)


def _gone(
    kept: Kept,
    seen: Sequence[History],
    known: Collection[str],
    is_older: bool,
    replicas: int,
    machine_died: bool,
) -> Finding | None:
    former = kept.history
    heirs = [each for each in seen if _common(each.slots, former.slots)]
    strangers = [each for each in heirs if each.run_id not in known]
    if not strangers:
        # Its slots were handed to servers that go on, and the mark went along with them.
        if not is_older or not heirs:
            return None
        return Finding(kept, heirs[0], former.slots, Kind.REPLACEMENT, Evidence.BEHIND)
    successor = next((each for each in strangers if each.former_replid == former.replid), strangers[0])
    slots = _common(successor.slots, former.slots)
    followed = successor.former_replid == former.replid
    if successor.address == former.address:
        kind = Kind.RESTART
    else:
        kind = Kind.FAILOVER if followed else Kind.REPLACEMENT
    if is_older or (followed and (successor.former_offset or 0) < former.offset):
        return Finding(kept, successor, slots, kind, Evidence.BEHIND)
    if kind is Kind.RESTART and successor.former_replid is None and successor.appends and not machine_died:
        return None
    confirmed = kind is Kind.FAILOVER and min(kept.replicas, replicas) > 0
    return Finding(kept, successor, slots, kind, Evidence.CONFIRMED if confirmed else Evidence.UNKNOWN)


def _common(some: Slots, others: Slots) -> Slots:
    return tuple(
        (max(first, start), min(last, end))
        for first, last in some
        for start, end in others
        if max(first, start) <= min(last, end)
    )
