"""What a roll-up notices of servers that took over the counters: real clusters, Sentinels and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from metering import histories
from metering.billing.reconcile import Kind as Book
from metering.billing.reconcile import reconcile
from metering.clients import Client, ClusterClient, connect, wire_to
from metering.counters import Outcome
from metering.histories import shards_in
from metering.interruptions import Evidence, Kind
from metering.lanes import AnyCounters
from metering.ledger import interruptions, tables
from metering.names import READY, day_name, record_name, rolled_name, shard_of
from metering.projection import project
from metering.rebuild import rebuild
from metering.rollup import RollupReport, roll_up
from policies.period import month_of
from tests import clusters
from tests.metering.billing.books import Books
from tests.metering.clustered import ask, counting, key_ids
from tests.metering.samples import DAY, NOW, TODAY, ZONE, record

PATIENCE_S = 60.0
UNHURRIED_MS = 20_000  # a server that has no time for a moment is not taken for dead
HANDOVER_S = 6.0  # after which servers give up a handover that did not come through


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[clusters.Node]]:
    """A cluster of three masters with a replica each; every test has a master of its own to lose."""
    place = tmp_path_factory.mktemp("replicated")
    with clusters.cluster(place, (1, 1, 1), node_timeout_ms=UNHURRIED_MS) as nodes:
        yield nodes


@pytest.fixture
async def client(replicated: list[clusters.Node]) -> AsyncIterator[ClusterClient]:
    """A client of the cluster, emptied, in which keys are in force."""
    made = connect(clusters.url("cluster", replicated), timeout_s=1.0)
    assert isinstance(made, ClusterClient)
    wire = wire_to(made)
    for holder in await wire.holders():
        await holder.wire.exchange([("FLUSHALL",)])
    await wire.close()
    await project(made, [record(key_id) for key_id in key_ids()])
    yield made
    await made.aclose()


async def rolled(
    client: Client, engine: AsyncEngine, now: float = NOW, *, replicas: int = 0, life: int = 0
) -> RollupReport:
    """A roll-up that comes through, and the rebuild where it asks for one, as the control process has it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                report = await roll_up(client, engine, zone=ZONE, now=now, replicas=replicas, life=life)
                break
            except (RedisError, OSError):
                await asyncio.sleep(0.1)
    if report.new or report.lost or report.older or report.unsure:
        await rebuild(client, engine, zone=ZONE, now=now)
    return report


async def call_all(client: Client, calls: int, *, replicas: int = 0, writer: str = "w0") -> None:
    """Make so many calls with each key, which are all granted."""
    async with counting(client, replicas=replicas, writer=writer, deadline_s=PATIENCE_S) as counters:
        for answers in await asyncio.gather(*(ask(counters, key_id, calls) for key_id in key_ids())):
            assert [each.outcome for each in answers] == [Outcome.GRANTED] * calls


async def counts(client: Client) -> dict[str, int]:
    """What Redis has of each key."""
    return {key_id: int(await client.hget(day_name(key_id, DAY), "used") or 0) for key_id in key_ids()}


async def in_ledger(engine: AsyncEngine) -> Counter[str]:
    """What the ledger has of each key."""
    table = tables.usage_daily
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(table.c.key_id, table.c.calls))
    return Counter({row.key_id: row.calls for row in rows})


def keys_on(client: ClusterClient, node: clusters.Node) -> set[str]:
    """The keys that a server has."""
    where = ("127.0.0.1", node.port)
    return {each for each in key_ids() if client.topology.server_of(record_name(each)) == where}


def cut_off(master: clusters.Node, replica: clusters.Node) -> None:
    """Freeze a replica that has everything, and drop its connection: what comes now does not reach it."""
    clusters.eventually(lambda: _offset(replica) == _offset(master))
    replica.stop()
    master.client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")


def take_over(master: clusters.Node, replica: clusters.Node, *, by_hand: bool = True) -> None:
    """Let a master die for good, and its replica take its place."""
    master.kill()
    replica.go_on()
    if by_hand:
        replica.client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
    clusters.eventually(lambda: _is_master(replica))


def hand_over(replica: clusters.Node) -> None:
    """Let a replica take its master's place in good order."""
    for _ in range(5):
        replica.client.execute_command("CLUSTER", "FAILOVER")
        with contextlib.suppress(AssertionError):
            clusters.eventually(lambda: _is_master(replica), within_s=HANDOVER_S)
            return
    raise AssertionError("the master did not hand over")


def _is_master(node: clusters.Node) -> bool:
    return bool(node.client.info("replication")["role"] == "master")


def _offset(node: clusters.Node) -> int:
    return int(node.client.info("replication")["master_repl_offset"])


async def test_failover_that_lost_counts_is_named(
    replicated: list[clusters.Node], client: ClusterClient, engine: AsyncEngine
) -> None:
    """Counts that had not reached the replica are gone; the ledger says where and between which moments."""
    master, replica = replicated[0], replicated[3]
    await rolled(client, engine, NOW)
    await call_all(client, 10)
    assert (await rolled(client, engine, NOW + 5)).interruptions == ()
    gone = keys_on(client, master)
    await asyncio.to_thread(cut_off, master, replica)
    await call_all(client, 7, writer="w1")
    await asyncio.to_thread(take_over, master, replica)
    report = await rolled(client, engine, NOW + 10)

    assert await counts(client) == {each: 10 if each in gone else 17 for each in key_ids()}
    (noticed,) = report.interruptions
    assert (noticed.kind, noticed.evidence, noticed.is_open) == (Kind.FAILOVER, Evidence.UNKNOWN, True)
    assert (noticed.since.timestamp(), noticed.address) == (NOW + 5, replica.address)
    assert NOW + 10 <= noticed.until.timestamp() < NOW + 10 + PATIENCE_S
    assert {each for each in key_ids() if shard_of(each) in shards_in(noticed.slots)} == gone
    assert (await rolled(client, engine, NOW + 15)).interruptions == ()

    terms = Books(engine).terms
    told = await reconcile(engine, client, month_of(TODAY), terms=terms)
    (named,) = [each for each in told.differences if each.kind is Book.INTERRUPTION]
    assert named.object_id == noticed.id
    assert "of 256 shards between 2026-11-21T12:00:05Z and 2026-11-21T12:" in named.found
    assert told.counters == len(key_ids())  # of all servers
    for month in ("2026-10-01", "2026-12-01"):
        other = await reconcile(engine, None, month_of(TODAY.fromisoformat(month)), terms=terms)
        assert other.differences == []


async def test_replica_that_lacked_what_the_ledger_has_is_told_apart(
    replicated: list[clusters.Node], client: ClusterClient, engine: AsyncEngine
) -> None:
    """What the last roll-up carried is raised again, to the last call; what came after it is gone."""
    master, replica = replicated[1], replicated[4]
    await rolled(client, engine, NOW)
    await asyncio.to_thread(cut_off, master, replica)
    await call_all(client, 10)
    await rolled(client, engine, NOW + 5)
    gone = keys_on(client, master)
    await call_all(client, 3, writer="w1")
    await asyncio.to_thread(take_over, master, replica)
    report = await rolled(client, engine, NOW + 10)

    (noticed,) = report.interruptions
    assert (noticed.kind, noticed.evidence) == (Kind.FAILOVER, Evidence.BEHIND)
    assert noticed.reached_offset is not None
    assert noticed.reached_offset < noticed.seen_offset
    assert {each.key_id for each in report.raised} == gone
    assert await counts(client) == {each: 10 if each in gone else 13 for each in key_ids()}
    await rolled(client, engine, NOW + 15)
    assert await in_ledger(engine) == await counts(client)


async def test_handover_in_good_order_is_proven_to_have_lost_nothing(
    replicated: list[clusters.Node], client: ClusterClient, engine: AsyncEngine
) -> None:
    """The former master follows its successor from where its own history ended; nothing is left open."""
    master, replica = replicated[2], replicated[5]
    await rolled(client, engine, NOW)
    await call_all(client, 10)
    await rolled(client, engine, NOW + 5)
    await call_all(client, 4, writer="w1")
    await asyncio.to_thread(hand_over, replica)
    report = await rolled(client, engine, NOW + 10)
    async with asyncio.timeout(PATIENCE_S):
        while not report.interruptions:  # it met the former master, in the middle of the handover
            report = await rolled(client, engine, NOW + 10)
    (noticed,) = report.interruptions
    assert (noticed.kind, noticed.former_address, noticed.address) == (
        Kind.FAILOVER,
        master.address,
        replica.address,
    )
    proven = noticed.evidence is Evidence.PROVEN
    async with asyncio.timeout(PATIENCE_S):
        while not proven:  # the former master had not turned round yet
            report = await rolled(client, engine, NOW + 11)
            proven = [each.id for each in report.proven] == [noticed.id]
    async with engine.connect() as connection:
        assert (await interruptions.get(connection, noticed.id)).evidence is Evidence.PROVEN
        assert await interruptions.count_open(connection) == 0
        trail = (await connection.execute(sa.select(tables.audit.c.action, tables.audit.c.object_id))).all()
    assert ("notice", noticed.id) in trail
    assert set(await counts(client)) == set(key_ids())
    assert set((await counts(client)).values()) == {14}
    told = await reconcile(engine, None, month_of(TODAY), terms=Books(engine).terms)
    assert [each for each in told.differences if each.kind is Book.INTERRUPTION] == []


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[clusters.Node]:
    """A server with an append-only file, in `node-0/valkey` below the test's directory."""
    with clusters.nodes(tmp_path, 1) as (node,):
        yield node


@pytest.fixture
async def single(alone: clusters.Node) -> AsyncIterator[Client]:
    """A client of that server, in which keys are in force."""
    made = connect(f"redis://{alone.address}/0", timeout_s=1.0)
    await project(made, [record(key_id) for key_id in key_ids()])
    yield made
    await made.aclose()


async def test_restart_out_of_a_whole_append_only_file_is_none(
    alone: clusters.Node, single: Client, engine: AsyncEngine
) -> None:
    """Killed and started again it has every count, those after the last roll-up included."""
    await rolled(single, engine, NOW)
    await call_all(single, 5)
    await rolled(single, engine, NOW + 5)
    await call_all(single, 2, writer="w1")
    alone.kill()
    await asyncio.to_thread(alone.start_again)
    report = await rolled(single, engine, NOW + 10)
    assert (report.interruptions, report.unsure) == ((), False)
    assert set((await counts(single)).values()) == {7}


async def test_death_of_the_machine_is_named_once(
    alone: clusters.Node, single: Client, engine: AsyncEngine
) -> None:
    """The file has the mark and may lack the last second; a server that was only killed lacks nothing."""
    await rolled(single, engine, NOW, life=1)
    await call_all(single, 5)
    await rolled(single, engine, NOW + 5, life=1)
    alone.kill()
    await asyncio.to_thread(alone.start_again)
    assert (await rolled(single, engine, NOW + 10, life=1)).interruptions == ()
    alone.kill()
    await asyncio.to_thread(alone.start_again)
    report = await rolled(single, engine, NOW + 15, life=2)
    (noticed,) = report.interruptions
    assert (noticed.kind, noticed.evidence, report.unsure) == (Kind.RESTART, Evidence.UNKNOWN, True)
    assert (noticed.since.timestamp(), noticed.is_open) == (NOW + 10, True)
    alone.kill()
    await asyncio.to_thread(alone.start_again)
    assert (await rolled(single, engine, NOW + 20, life=2)).interruptions == ()
    assert set((await counts(single)).values()) == {5}


async def test_restart_with_an_older_append_only_file_is_named(
    alone: clusters.Node, single: Client, engine: AsyncEngine, tmp_path: Path
) -> None:
    """A file from before the last roll-up lacks what came after it; what the ledger has is raised again."""
    files, old = tmp_path / "node-0" / "valkey", tmp_path / "old"
    await rolled(single, engine, NOW)
    await call_all(single, 5)
    alone.kill()
    await asyncio.to_thread(shutil.copytree, files, old)
    await asyncio.to_thread(alone.start_again)
    await rolled(single, engine, NOW + 5)
    await call_all(single, 2, writer="w1")
    await rolled(single, engine, NOW + 10)
    await call_all(single, 1, writer="w2")
    alone.kill()
    await asyncio.to_thread(shutil.rmtree, files)
    await asyncio.to_thread(shutil.copytree, old, files)
    await asyncio.to_thread(alone.start_again)
    report = await rolled(single, engine, NOW + 15)
    (noticed,) = report.interruptions
    assert (noticed.kind, noticed.evidence) == (Kind.RESTART, Evidence.BEHIND)
    assert noticed.since.timestamp() == NOW + 10
    assert shards_in(noticed.slots) == shards_in(((0, clusters.SLOTS - 1),))
    assert set((await counts(single)).values()) == {7}  # of 8


async def test_emptied_server_is_named(alone: clusters.Node, single: Client, engine: AsyncEngine) -> None:
    """The process is the same, and its data are gone; each time is another one."""
    await rolled(single, engine, NOW)
    await call_all(single, 5)
    await rolled(single, engine, NOW + 5)
    await single.flushall()
    report = await rolled(single, engine, NOW + 10)
    (noticed,) = report.interruptions
    assert (noticed.kind, noticed.evidence, report.lost) == (Kind.EMPTIED, Evidence.BEHIND, True)
    assert set((await counts(single)).values()) == {5}
    await single.flushall()
    (again,) = (await rolled(single, engine, NOW + 15)).interruptions
    assert (again.since.timestamp(), again.id == noticed.id) == (NOW + 10, False)
    assert (await rolled(single, engine, NOW + 20)).interruptions == ()


async def test_roll_up_that_breaks_off_names_it_the_next_time_and_once(
    alone: clusters.Node, single: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the interruption is written down loses nothing of it; one after it repeats nothing."""
    await rolled(single, engine, NOW - 5)
    await rolled(single, engine, NOW)
    await single.flushall()

    class CrashError(Exception):
        pass

    async def crash(*_: object, **__: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(interruptions, "keep", crash)
        with pytest.raises(CrashError):
            await rolled(single, engine, NOW + 5)
    async with engine.connect() as connection:
        assert await interruptions.count_open(connection) == 0
    with monkeypatch.context() as patch:
        patch.setattr("metering.watch.Watch.look_back", crash)
        with pytest.raises(CrashError):
            await rolled(single, engine, NOW + 10)
    assert await single.exists(READY) == 0  # the rebuild is still to come, and the next roll-up sees so
    report = await rolled(single, engine, NOW + 15)
    assert (report.interruptions, report.lost) == ((), True)
    async with engine.connect() as connection:
        assert await interruptions.count_open(connection) == 1
        page = await interruptions.listed(connection)
    assert [each.since.timestamp() for each in page.items] == [NOW]


async def test_two_roll_ups_at_once_name_it_once(
    alone: clusters.Node, single: Client, engine: AsyncEngine
) -> None:
    """Two control processes that come upon the same interruption write one row."""
    await rolled(single, engine, NOW)
    await single.flushall()
    reports = await asyncio.gather(*(rolled(single, engine, NOW + 5 + each) for each in range(3)))
    assert sum(len(each.interruptions) for each in reports) == 1
    async with engine.connect() as connection:
        assert len((await interruptions.listed(connection)).items) == 1


async def test_server_that_changes_under_a_roll_up_is_left_to_the_next(
    alone: clusters.Node, single: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts may have been read from either: the window reaches back to the roll-up before."""
    await rolled(single, engine, NOW)
    carry = histories.marks_of

    async def restarted(*arguments: object) -> dict[str, int]:
        found = await carry(*arguments)  # type: ignore[arg-type]
        alone.kill()
        await asyncio.to_thread(shutil.rmtree, files / "appendonlydir")
        await asyncio.to_thread(alone.start_again)
        return found

    files = Path(str(alone.client.config_get("dir")["dir"]))
    with monkeypatch.context() as patch:
        patch.setattr(histories, "marks_of", restarted)
        first = await rolled(single, engine, NOW + 5)
    assert first.interruptions == ()
    (noticed,) = (await rolled(single, engine, NOW + 10)).interruptions
    assert (noticed.kind, noticed.evidence) == (Kind.RESTART, Evidence.BEHIND)
    assert noticed.since.timestamp() == NOW


async def test_redis_that_does_not_tell_of_its_past_is_left_alone(
    alone: clusters.Node, single: Client, engine: AsyncEngine
) -> None:
    """Without the right to ask INFO roll-ups go on, and say that they notice nothing."""
    await rolled(single, engine, NOW)
    alone.client.execute_command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-info")
    blind = connect(f"redis://blind:secret@{alone.address}/0", timeout_s=1.0)
    await blind.delete(rolled_name("00"))
    report = await rolled(blind, engine, NOW + 5)
    assert (report.blind, report.interruptions) == (True, ())
    await blind.aclose()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[clusters.Node]]:
    """A cluster of one master and its replica."""
    with clusters.cluster(tmp_path, (1,), node_timeout_ms=UNHURRIED_MS) as nodes:
        yield nodes


async def test_replicas_that_had_every_count_confirm_that_nothing_is_missing(
    pair: list[clusters.Node], engine: AsyncEngine
) -> None:
    """With redis_replicas a master's death leaves nothing open; what was counted is all there."""
    master, replica = pair
    client = connect(clusters.url("cluster", pair), timeout_s=1.0)
    await project(client, [record(key_id) for key_id in key_ids()])
    await rolled(client, engine, NOW, replicas=1)
    await call_all(client, 6, replicas=1)
    await rolled(client, engine, NOW + 5, replicas=1)
    await call_all(client, 3, replicas=1, writer="w1")
    await asyncio.to_thread(take_over, master, replica)
    report = await rolled(client, engine, NOW + 10, replicas=1)
    (noticed,) = report.interruptions
    assert (noticed.evidence, noticed.is_open) == (Evidence.CONFIRMED, False)
    assert set((await counts(client)).values()) == {9}
    await client.aclose()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[list[clusters.Node], list[clusters.Node]]]:
    """A master and its replica, and the Sentinels that watch them."""
    with clusters.watched_master(tmp_path) as servers:
        yield servers


@pytest.mark.deep
async def test_sentinels_that_replace_a_master_are_noticed(
    watched: tuple[list[clusters.Node], list[clusters.Node]], engine: AsyncEngine
) -> None:
    """A coordinated failover is proven whole by the former master, one after its death is left open."""
    (first, second), sentinels = watched
    client = connect(clusters.url("sentinel", sentinels, "/counts"), timeout_s=1.0)
    await project(client, [record(key_id) for key_id in key_ids()])
    await rolled(client, engine, NOW)
    await call_all(client, 4)
    await rolled(client, engine, NOW + 5)

    def coordinated() -> None:
        clusters.eventually(lambda: _offset(first) == _offset(second))
        sentinels[0].client.execute_command("SENTINEL", "FAILOVER", "counts", "COORDINATED")
        clusters.eventually(lambda: _is_master(second))
        clusters.eventually(lambda: first.client.info("replication").get("master_link_status") == "up")

    await asyncio.to_thread(coordinated)
    noticed = (await rolled(client, engine, NOW + 10)).interruptions
    assert [(each.kind, each.evidence) for each in noticed] == [(Kind.FAILOVER, Evidence.PROVEN)]
    await call_all(client, 4, writer="w1")
    await rolled(client, engine, NOW + 15)
    await asyncio.to_thread(clusters.eventually, lambda: _offset(first) == _offset(second))
    second.kill()
    await asyncio.to_thread(clusters.eventually, lambda: _is_master(first))
    noticed = (await rolled(client, engine, NOW + 20)).interruptions
    assert [(each.kind, each.evidence) for each in noticed] == [(Kind.FAILOVER, Evidence.UNKNOWN)]
    assert set((await counts(client)).values()) == {8}
    await client.aclose()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[list[clusters.Node]]:
    """A cluster of three masters with a replica each, of the test's own."""
    with clusters.cluster(tmp_path, (1, 1, 1)) as nodes:
        yield nodes


@pytest.mark.deep
async def test_master_that_dies_under_load_loses_nothing_that_is_not_named(
    mortal: list[clusters.Node], engine: AsyncEngine
) -> None:
    """Two gateways call on all keys while a lagging replica takes over: what lacks is of the named shards."""
    client = connect(clusters.url("cluster", mortal), timeout_s=0.5)
    assert isinstance(client, ClusterClient)
    await project(client, [record(key_id) for key_id in key_ids()])
    await rolled(client, engine, NOW)
    granted: Counter[str] = Counter()
    enough = asyncio.Event()

    async def call_on(counters: AnyCounters, key_id: str) -> None:
        while not enough.is_set():
            for each in await ask(counters, key_id, 5):
                granted[key_id] += each.outcome is Outcome.GRANTED

    async with (
        counting(client, writer="a", deadline_s=30) as one,
        counting(client, writer="b", deadline_s=30) as two,
    ):
        callers = [
            asyncio.create_task(call_on(counters, each)) for counters in (one, two) for each in key_ids()
        ]
        await asyncio.sleep(0.5)
        await rolled(client, engine, NOW + 5)
        gone = keys_on(client, mortal[0])
        mortal[3].stop()
        await asyncio.to_thread(mortal[0].client.execute_command, "CLIENT", "KILL", "TYPE", "REPLICA")
        await asyncio.sleep(0.3)
        await asyncio.to_thread(take_over, mortal[0], mortal[3], by_hand=False)
        before = granted.copy()
        async with asyncio.timeout(PATIENCE_S):
            while any(granted[key_id] == before[key_id] for key_id in key_ids()):
                await asyncio.sleep(0.05)
        enough.set()
        await asyncio.gather(*callers)
    (noticed,) = (await rolled(client, engine, NOW + 10)).interruptions
    assert noticed.is_open
    assert {each for each in key_ids() if shard_of(each) in shards_in(noticed.slots)} == gone
    counted = await counts(client)
    lacking = {each: granted[each] - counted[each] for each in key_ids()}
    print("lost:", sum(lacking.values()), "of", sum(granted.values()))
    assert {each for each, calls in lacking.items() if calls > 0} == gone
    assert min(lacking.values()) >= 0
    await client.aclose()
