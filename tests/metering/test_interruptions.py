"""What is made of a server that does not go on as it was at the last roll-up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from metering.histories import History, shards_in
from metering.interruptions import Evidence, Finding, Kept, Kind, explained, find, named, proves
from metering.names import SHARDS
from tests.metering.samples import WHEN

LOW, HIGH = ((0, 8191),), ((8192, 16383),)
ALL = ((0, 16383),)
MASTER = History("a:1", LOW, "run-a", "history-a", 1_000, None, None, appends=True)
REPLICA = History("b:1", LOW, "run-b", "history-b", 1_300, "history-a", 1_200, appends=True)
OTHER = History("c:1", HIGH, "run-c", "history-c", 500, None, None, appends=True)
MARK = 77


def kept(history: History, *, replicas: int = 0, shard: str | None = "02", mark: int = MARK) -> Kept:
    """A server as a roll-up found it."""
    return Kept(history, WHEN, shard, mark, replicas)


def found(
    before: History,
    *now: History,
    mark: int = MARK,
    replicas: tuple[int, int] = (0, 0),
    machine_died: bool = False,
) -> list[tuple[Kind, Evidence]]:
    """What is found of one server, beside another that goes on."""
    servers = [kept(before, replicas=replicas[0]), kept(OTHER, shard="00", replicas=replicas[0])]
    findings = find(
        servers,
        [*now, OTHER],
        {"02": mark, "00": MARK},
        replicas=replicas[1],
        machine_died=machine_died,
    )
    assert all(each.kept.history == before for each in findings)
    return [(each.kind, each.evidence) for each in findings]


def test_server_that_goes_on_is_none() -> None:
    """Further writes, other slots, and a history given up because nobody follows it lose nothing."""
    assert found(MASTER, replace(MASTER, offset=5_000)) == []
    assert found(MASTER, replace(MASTER, slots=((0, 100),))) == []
    assert found(MASTER, replace(MASTER, replid="history-x")) == []
    own = replace(MASTER, replid="history-x", former_replid="history-a", former_offset=1_100)
    assert found(MASTER, own) == []


def test_replica_that_had_what_was_seen_may_lack_what_came_later() -> None:
    """Nothing proves that the master wrote nothing more."""
    assert found(MASTER, REPLICA) == [(Kind.FAILOVER, Evidence.UNKNOWN)]
    exactly = replace(REPLICA, former_offset=1_000)
    assert found(MASTER, exactly) == [(Kind.FAILOVER, Evidence.UNKNOWN)]


def test_replica_that_lacks_what_was_seen_is_behind() -> None:
    """One byte less than at the last roll-up, or a mark that has not reached it, and something is gone."""
    short = replace(REPLICA, former_offset=999)
    assert found(MASTER, short) == [(Kind.FAILOVER, Evidence.BEHIND)]
    assert found(MASTER, REPLICA, mark=MARK - 1) == [(Kind.FAILOVER, Evidence.BEHIND)]


def test_counts_that_waited_for_replicas_are_confirmed() -> None:
    """Both at the last roll-up and now; one that lacks what was seen is no such replica."""
    assert found(MASTER, REPLICA, replicas=(1, 1)) == [(Kind.FAILOVER, Evidence.CONFIRMED)]
    assert found(MASTER, REPLICA, replicas=(0, 1)) == [(Kind.FAILOVER, Evidence.UNKNOWN)]
    assert found(MASTER, REPLICA, replicas=(1, 0)) == [(Kind.FAILOVER, Evidence.UNKNOWN)]
    short = replace(REPLICA, former_offset=999)
    assert found(MASTER, short, replicas=(1, 1)) == [(Kind.FAILOVER, Evidence.BEHIND)]


def test_server_that_followed_nobody_we_know_is_a_replacement() -> None:
    """After two failovers in a row, or with a server from elsewhere, replicas confirm nothing."""
    later = replace(REPLICA, former_replid="history-between")
    assert found(MASTER, later, replicas=(1, 1)) == [(Kind.REPLACEMENT, Evidence.UNKNOWN)]
    foreign = replace(REPLICA, former_replid=None, former_offset=None)
    assert found(MASTER, foreign, mark=0) == [(Kind.REPLACEMENT, Evidence.BEHIND)]


def test_restart_is_told_by_what_came_back() -> None:
    """An append-only file with the mark in it brought all back; without either something may be gone."""
    again = History("a:1", LOW, "run-a2", "history-a2", 0, None, None, appends=True)
    assert found(MASTER, again) == []
    assert found(MASTER, again, machine_died=True) == [(Kind.RESTART, Evidence.UNKNOWN)]
    assert found(MASTER, again, machine_died=True, mark=0) == [(Kind.RESTART, Evidence.BEHIND)]
    assert found(MASTER, replace(MASTER, offset=5_000), machine_died=True) == []
    assert found(MASTER, again, mark=MARK - 1) == [(Kind.RESTART, Evidence.BEHIND)]
    assert found(MASTER, again, mark=0) == [(Kind.RESTART, Evidence.BEHIND)]
    assert found(MASTER, replace(again, appends=False)) == [(Kind.RESTART, Evidence.UNKNOWN)]
    snapshot = replace(again, former_replid="history-a", former_offset=1_500)
    assert found(MASTER, snapshot, replicas=(1, 1)) == [(Kind.RESTART, Evidence.UNKNOWN)]


def test_process_that_forgot_is_noticed() -> None:
    """The mark of a roll-up is gone with everything else."""
    assert found(MASTER, MASTER, mark=0) == [(Kind.EMPTIED, Evidence.BEHIND)]


def test_process_that_followed_another_meanwhile_is_noticed() -> None:
    """It has the other one's counts now, whatever came of its own."""
    back = replace(MASTER, replid="history-x", former_replid="history-b", former_offset=2_000)
    assert found(MASTER, back) == [(Kind.FAILOVER, Evidence.UNKNOWN)]


def test_slots_that_were_handed_over_are_none() -> None:
    """A server that gave its slots to one that goes on may leave; its mark has to have gone along."""
    servers = [kept(MASTER), kept(OTHER, shard="00")]
    heir = replace(OTHER, slots=ALL)
    assert find(servers, [heir], {"02": MARK, "00": MARK}, replicas=0) == []
    (finding,) = find(servers, [heir], {"02": 0, "00": MARK}, replicas=0)
    assert (finding.kind, finding.evidence) == (Kind.REPLACEMENT, Evidence.BEHIND)
    fresh = replace(OTHER, address="d:1", run_id="run-d", replid="history-d", slots=((0, 4000),))
    moved = replace(MASTER, slots=((4001, 8191),))
    assert find(servers, [fresh, moved, OTHER], {"02": MARK, "00": MARK}, replicas=0) == []


def test_first_look_finds_nothing() -> None:
    """Before the first roll-up there is nothing to compare with."""
    assert find([], [MASTER, OTHER], {}, replicas=0) == []


def test_finding_names_the_slots_that_were_taken_over() -> None:
    """What the successor has besides is not in question."""
    wide = replace(REPLICA, slots=((4_000, 12_000),))
    (finding,) = find([kept(MASTER)], [wide], {"02": MARK}, replicas=0)
    assert finding.slots == ((4_000, 8_191),)


def lost(evidence: Evidence = Evidence.UNKNOWN, kind: Kind = Kind.FAILOVER) -> Finding:
    """The replica took over from the master."""
    return Finding(kept(MASTER), REPLICA, LOW, kind, evidence)


def test_same_finding_has_the_same_name() -> None:
    """Whoever finds it, and whenever; another server has another."""
    one, later = named(lost(), WHEN), named(lost(), WHEN + timedelta(minutes=5))
    assert one.id == later.id
    assert one.id.startswith("int_")
    assert (one.since, one.seen_offset, one.reached_offset) == (WHEN, 1_000, 1_200)
    other = replace(lost(), successor=replace(REPLICA, run_id="run-e"))
    assert named(other, WHEN).id != one.id
    unrelated = replace(lost(), successor=replace(REPLICA, former_replid="history-x"))
    assert named(unrelated, WHEN).reached_offset is None


FOLLOWS = replace(MASTER, replid="history-b", former_replid="history-a", former_offset=1_200)


@pytest.mark.parametrize(
    ("answer", "proof"),
    [
        (FOLLOWS, True),
        (replace(FOLLOWS, former_offset=1_199), True),
        (replace(FOLLOWS, former_offset=1_201), False),  # it had more
        (replace(FOLLOWS, former_offset=999), False),  # it is not what was seen
        (replace(FOLLOWS, run_id="run-a2"), False),  # it came back from its disk
        (replace(FOLLOWS, former_replid=None, former_offset=None), False),  # it took a whole copy
        (replace(FOLLOWS, replid="history-x"), False),  # it follows somebody else
        (MASTER, False),  # it does not follow yet
        (None, False),
    ],
)
def test_only_a_server_that_goes_on_behind_its_successor_is_a_proof(
    answer: History | None, proof: bool
) -> None:
    """The same process, continued from a point that the successor has."""
    assert proves(answer, named(lost(), WHEN)) is proof


@pytest.mark.parametrize("evidence", Evidence)
def test_only_what_may_lack_and_nobody_acknowledged_is_open(evidence: Evidence) -> None:
    """What lost nothing needs nobody's attention."""
    interruption = named(lost(evidence), WHEN)
    assert interruption.is_open is (evidence in (Evidence.UNKNOWN, Evidence.BEHIND))
    assert not replace(interruption, acknowledged_at=WHEN).is_open


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("evidence", Evidence)
def test_every_interruption_is_explained(kind: Kind, evidence: Evidence) -> None:
    """The sentence names the server, and says whether something is missing."""
    text = explained(named(lost(evidence, kind), WHEN))
    assert "b:1" in text
    assert ("none is missing" in text) is evidence.is_whole


def test_shards_of_slots() -> None:
    """Every shard lies in one place, and all slots hold them all."""
    assert shards_in(ALL) == SHARDS
    assert {*shards_in(LOW), *shards_in(HIGH)} == set(SHARDS)
    assert not {*shards_in(LOW)} & {*shards_in(HIGH)}
    assert shards_in(()) == ()
