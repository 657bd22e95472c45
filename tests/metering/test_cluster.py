"""Counting on a real Redis Cluster, and on a master that Sentinels watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hiredis
import pytest
from redis.crc import key_slot
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clients import ClusterClient, check_url, connect, wire_to
from metering.counters import Outcome, Taken
from metering.lanes import ClusterCounters, counters_on
from metering.lookups import Lookups
from metering.names import READY, SHARDS, day_name, record_name, touched_name
from metering.projection import project
from metering.rebuild import rebuild
from metering.rollup import roll_up
from metering.wire import refuse_errors
from policies.waiver import Waiver
from tests import clusters
from tests.metering.clustered import ask, counting, key_ids
from tests.metering.samples import DAY, NOW, ZONE, record, take

LIMIT = 100
LOW_KEY, HIGH_KEY = sorted(map(touched_name, SHARDS), key=lambda name: key_slot(name.encode()))[
    :: len(SHARDS) - 1
]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[clusters.Node]]:
    """A cluster of three masters."""
    with clusters.cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[list[clusters.Node]]:
    """A cluster of three masters of the test's own."""
    with clusters.cluster(tmp_path) as nodes:
        yield nodes


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[list[clusters.Node]]:
    """A cluster of three masters with a replica each, and one more of the first."""
    with clusters.cluster(tmp_path, (2, 1, 1)) as nodes:
        yield nodes


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[clusters.Node]]:
    """A cluster of one master and its replica."""
    with clusters.cluster(tmp_path, (1,)) as nodes:
        yield nodes


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[list[clusters.Node], list[clusters.Node]]]:
    """A master and its replica, and the Sentinels that watch them."""
    with clusters.watched_master(tmp_path) as servers:
        yield servers


@pytest.fixture
async def client(three: list[clusters.Node]) -> AsyncIterator[ClusterClient]:
    """A client of the cluster, emptied."""
    for node in three:
        node.client.flushall()
    made = connect(clusters.url("cluster", three[:1]))
    assert isinstance(made, ClusterClient)
    yield made
    await made.aclose()


async def test_counts_of_keys_on_all_servers_are_exact(client: ClusterClient) -> None:
    """One batch with keys of many shards counts each of them once, wherever it lives."""
    await project(client, [record(key_id) for key_id in key_ids()])
    async with counting(client) as counters:
        answers = await asyncio.gather(*(ask(counters, key_id, 50) for key_id in key_ids()))
        assert all(each.outcome is Outcome.GRANTED for some in answers for each in some)
        counters.waive(take(key_id=key_ids()[0]), Waiver.NOT_FORWARDED)
    for key_id in key_ids():
        assert int(await client.hget(day_name(key_id, DAY), "used")) == 50
    assert int(await client.hget(day_name(key_ids()[0], DAY), "back")) == 1


async def test_two_gateways_share_one_key_s_quota_exactly(
    client: ClusterClient, three: list[clusters.Node]
) -> None:
    """A limit of 100 lets exactly 100 of 1,000 calls through that two gateways make at once."""
    (key_id,) = key_ids()[:1]
    await project(client, [record(key_id)])
    other = connect(clusters.url("cluster", three[1:]))
    async with counting(client, writer="a") as one, counting(other, writer="b") as two:
        answers = await asyncio.gather(
            *(ask(each, key_id, 10, LIMIT) for each in (one, two) for _ in range(50))
        )
    found = Counter(each.outcome for some in answers for each in some)
    assert found == {Outcome.GRANTED: LIMIT, Outcome.EXHAUSTED: 900}
    await other.aclose()


async def test_ledger_gets_what_all_servers_counted(client: ClusterClient, engine: AsyncEngine) -> None:
    """A roll-up collects from every server, a full one finds every hash, and a rebuild restores them all."""
    await project(client, [record(key_id) for key_id in key_ids()])
    async with counting(client) as counters:
        await asyncio.gather(*(ask(counters, key_id, 3) for key_id in key_ids()))
    await client.set(READY, 1)
    done = await roll_up(client, engine, zone=ZONE, now=NOW)
    assert (done.key_days, done.rows, done.raised) == (len(key_ids()), len(key_ids()), ())
    again = await roll_up(client, engine, zone=ZONE, now=NOW, full=True)
    assert (again.key_days, again.rows) == (len(key_ids()), 0)
    await client.delete(*(day_name(key_ids()[0], DAY),))
    back = await rebuild(client, engine, zone=ZONE, now=NOW)
    assert back.raised > 0
    assert int(await client.hget(day_name(key_ids()[0], DAY), "used")) == 3


async def test_slot_that_moves_under_way_is_followed(
    client: ClusterClient, three: list[clusters.Node]
) -> None:
    """Calls go on exactly while their slot is handed from one server to another."""
    (key_id,) = key_ids()[:1]
    slot = key_slot(record_name(key_id).encode())
    await wire_to(client).holders()
    _, port = client.topology.server_of(record_name(key_id))
    source, target, *_ = sorted(three, key=lambda node: node.port != port)
    await project(client, [record(key_id)])
    answers: list[Taken] = []
    async with counting(client) as counters:
        for there, back in ((source, target), (target, source)):
            answers += await ask(counters, key_id, 10)
            moving = asyncio.ensure_future(asyncio.to_thread(_move, slot, there, back))
            while not moving.done():
                answers += await ask(counters, key_id, 1)
            await moving
            answers += await ask(counters, key_id, 10)
    assert {each.outcome for each in answers} == {Outcome.GRANTED}
    assert int(await client.hget(day_name(key_id, DAY), "used")) == len(answers) > 40


def _has_followed(nodes: list[clusters.Node]) -> bool:
    return any(node.client.info("replication")["role"] == "master" for node in nodes[3:5])


def _move(slot: int, source: clusters.Node, target: clusters.Node) -> None:
    target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
    source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)
    while found := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *found)
    for node in (target, source):
        node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.name)


@pytest.mark.deep
async def test_master_that_dies_loses_nothing_a_replica_had_to_have(replicated: list[clusters.Node]) -> None:
    """With a replica that must have each count, no answered call is lost when its server is killed."""
    client = connect(clusters.url("cluster", replicated), timeout_s=0.5)
    await project(client, [record(key_id) for key_id in key_ids()])
    granted: Counter[str] = Counter()
    async with counting(client, replicas=1, deadline_s=20) as counters:

        async def call_on(key_id: str) -> None:
            while not enough.is_set():
                for each in await ask(counters, key_id, 5):
                    granted[key_id] += each.outcome is Outcome.GRANTED

        enough = asyncio.Event()
        callers = [asyncio.create_task(call_on(key_id)) for key_id in key_ids()]
        await asyncio.sleep(0.3)
        replicated[0].kill()
        await asyncio.to_thread(clusters.eventually, lambda: _has_followed(replicated))
        before = granted.copy()
        async with asyncio.timeout(30):
            while any(granted[key_id] == before[key_id] for key_id in key_ids()):
                await asyncio.sleep(0.05)
        enough.set()
        await asyncio.gather(*callers)
    for key_id in key_ids():
        assert int(await client.hget(day_name(key_id, DAY), "used")) == granted[key_id]
    await client.aclose()


async def test_server_that_was_replaced_is_left_once_nothing_is_owed_to_it(
    replicated: list[clusters.Node],
) -> None:
    """What was sent to it is settled where its keys are now, once; then nothing is kept for its address."""
    former, heir = replicated[0], replicated[3]
    place = "127.0.0.1", former.port
    client = connect(clusters.url("cluster", replicated), timeout_s=0.3)
    assert isinstance(client, ClusterClient)
    await project(client, [record(key_id) for key_id in key_ids()])
    lookups = Lookups(client)
    async with counting(client, deadline_s=1) as counters:
        assert isinstance(counters, ClusterCounters)
        for key_id in key_ids():
            await ask(counters, key_id, 3)
            assert await lookups.fetch(key_id)
        (key_id, *_) = [each for each in key_ids() if client.topology.server_of(record_name(each)) == place]
        assert place in counters._by_server
        assert place in lookups._lanes
        await asyncio.to_thread(former.client.wait, 2, 5000)
        former.stop()
        try:
            counters.waive(take(key_id=key_id), Waiver.ERROR_CODE)
            await asyncio.sleep(0.1)
            assert counters.pending == 1
            await asyncio.to_thread(heir.client.execute_command, "CLUSTER", "FAILOVER", "TAKEOVER")
            async with asyncio.timeout(30):
                while (await ask(counters, key_id, 1))[0].outcome is not Outcome.GRANTED:
                    await asyncio.sleep(0.05)
                await ask(counters, key_id, 1)
                while counters._leaving or counters.pending or place in counters._by_server:
                    await asyncio.sleep(0.05)
                assert await lookups.fetch(key_id)
                while lookups._leaving or place in lookups._lanes:
                    await asyncio.sleep(0.05)
            assert len(counters._by_server) == len(lookups._lanes) == 3
        finally:
            former.go_on()
    used, back, waived = await client.hmget(day_name(key_id, DAY), ["used", "back", "v:error_code"])
    assert (int(used) - int(back), int(waived)) == (4, 1)
    await lookups.close()
    await client.aclose()


async def test_count_waits_for_as_many_replicas_as_are_asked_for(pair: list[clusters.Node]) -> None:
    """Without the replica that must have it a call is not counted as answered, and is once it is there."""
    master, replica = pair
    client = connect(clusters.url("cluster", [master]), timeout_s=0.3)
    (key_id,) = key_ids()[:1]
    await project(client, [record(key_id)])
    async with counting(client, replicas=1, deadline_s=1) as counters:
        (first,) = await ask(counters, key_id, 1)
        assert first.outcome is Outcome.GRANTED
        replica.stop()
        (second,) = await ask(counters, key_id, 1)
        assert second.outcome is Outcome.UNAVAILABLE
        replica.go_on()
        async with asyncio.timeout(20):
            while (await ask(counters, key_id, 1))[0].outcome is not Outcome.GRANTED:
                await asyncio.sleep(0.05)
    used, back = await client.hmget(day_name(key_id, DAY), ["used", "back"])
    assert int(used) - int(back) == 2
    await client.aclose()


@pytest.mark.deep
async def test_master_that_sentinels_replace_is_followed(
    watched: tuple[list[clusters.Node], list[clusters.Node]],
) -> None:
    """Counting goes on with the replica that Sentinels made the master, and nothing answered is lost."""
    (master, _), sentinels = watched
    client = connect(clusters.url("sentinel", sentinels, "/counts"), timeout_s=0.5)
    (key_id,) = key_ids()[:1]
    await project(client, [record(key_id)])
    async with counting(client, replicas=1, deadline_s=20) as counters:
        assert (await ask(counters, key_id, 3))[0].outcome is Outcome.GRANTED
    async with counting(client, writer="w1", deadline_s=25) as counters:
        master.kill()
        assert (await ask(counters, key_id, 2))[0].outcome is Outcome.GRANTED
    assert int(await client.hget(day_name(key_id, DAY), "used")) == 5
    await client.aclose()


async def test_one_server_that_is_away_is_told_beside_the_answers_of_others(
    mortal: list[clusters.Node],
) -> None:
    """What one server does not answer is an error in its place; the others' replies are there."""
    client = connect(clusters.url("cluster", mortal), timeout_s=0.5)
    wire = wire_to(client)
    commands = [("GET", day_name(key_id, DAY)) for key_id in key_ids()]
    assert refuse_errors(await wire.exchange(commands)) == [None] * len(commands)
    mortal[2].kill()
    replies = await wire.exchange(commands)
    assert [reply for reply in replies if reply is None]
    assert [reply for reply in replies if str(reply).startswith("LOST 127.0.0.1:")]
    await wire.close()
    await client.aclose()


async def test_cluster_that_is_away_at_the_start_is_found_when_it_comes(three: list[clusters.Node]) -> None:
    """A worker that starts while no server of the cluster answers counts as soon as one does."""
    (key_id,) = key_ids()[:1]
    made = connect(clusters.url("cluster", three), timeout_s=0.2)
    assert isinstance(made, ClusterClient)
    counters = counters_on(made, writer="w0", deadline_s=5.0, retention_days=35)
    for node in three:
        node.stop()
    try:
        await counters.start()
        async with asyncio.timeout(20):
            while "no server of the cluster answers" not in counters.breaker.why:
                await asyncio.sleep(0.01)
    finally:
        for node in three:
            node.go_on()
    async with asyncio.timeout(20):
        while counters.breaker.is_open:
            await asyncio.sleep(0.01)
    await project(made, [record(key_id)])
    assert {each.outcome for each in await ask(counters, key_id, 5)} == {Outcome.GRANTED}
    await counters.close()
    await made.aclose()


async def test_what_is_not_asked_for_is_not_taken_for_replicated(pair: list[clusters.Node]) -> None:
    """A master that has no room to ask its replica with does not pass off an earlier write as copied."""
    master, replica = pair
    made = connect(clusters.url("cluster", pair), timeout_s=0.5)
    name = day_name(key_ids()[0], DAY)
    wire = wire_to(made, replicas=1)
    assert await wire.exchange([("HSET", name, "used", 1)]) == [1]
    await wire.close()
    replica.stop()
    master.client.hset(name, "used", 2)
    master.client.config_set("maxmemory", 1)
    (answer,) = await wire.exchange([("HGET", name, "used")])
    assert "OOM" in str(answer)
    master.client.config_set("maxmemory", 0)
    (answer,) = await wire.exchange([("HGET", name, "used")])
    assert "0 of 1 replicas have what was written" in str(answer)
    replica.go_on()
    async with asyncio.timeout(20):
        while await wire.exchange([("HGET", name, "used")]) != [b"2"]:
            await asyncio.sleep(0.05)
    await wire.close()
    await made.aclose()


@contextlib.asynccontextmanager
async def saying(state: str, slots: list[tuple[int, int, int]]) -> AsyncIterator[int]:
    """A server that says of the cluster that these ports have these slots; gives its own port."""
    text = b"cluster_state:%b\r\n" % state.encode()

    def told(what: bytes) -> bytes:
        if what == b"INFO":
            return b"$%d\r\n%b\r\n" % (len(text), text)
        owner = b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"
        return b"*%d\r\n%b" % (len(slots), b"".join(owner % each for each in slots))

    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        asked = hiredis.Reader()
        while data := await reader.read(1 << 16):
            asked.feed(data)
            while words := asked.gets():
                writer.write(told(words[1]) if words[0] == b"CLUSTER" else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_slots_that_nobody_had_are_found_when_somebody_has_them() -> None:
    """A cluster that is still being made when it is first asked becomes known whole."""
    slots: list[tuple[int, int, int]] = []
    async with saying("ok", slots) as port:
        slots.append((0, 8_191, port))
        made = connect(f"redis+cluster://127.0.0.1:{port}", timeout_s=5)
        assert isinstance(made, ClusterClient)
        wire = wire_to(made)
        both = [("GET", LOW_KEY), ("GET", HIGH_KEY)]
        there, nowhere = await wire.exchange(both)
        assert there == b"OK"
        assert "no server of the cluster has the slot" in str(nowhere)
        slots.append((8_192, 16_383, port))
        async with asyncio.timeout(5):
            while await wire.exchange(both) != [b"OK", b"OK"]:
                await asyncio.sleep(0.01)
        await wire.close()
        await made.aclose()


@pytest.mark.parametrize(("others", "followed"), [("ok", True), ("fail", False)])
async def test_master_that_is_cut_off_from_the_others_is_not_asked_who_has_what(
    others: str, followed: bool
) -> None:
    """It goes on to name itself when a replica has its slots; while nobody knows better it is believed."""
    async with (
        saying(others, [(0, 16_383, 7_001)]) as other,
        saying("fail", [(0, 8_191, 7_000), (8_192, 16_383, other)]) as cut_off,
    ):
        made = connect(f"redis+cluster://127.0.0.1:{cut_off},127.0.0.1:{other}", timeout_s=5)
        assert isinstance(made, ClusterClient)
        for _ in range(2):
            await made.topology.refresh()
            found = [made.topology.find(key) for key in (LOW_KEY, HIGH_KEY)]
            ports = (7_001, 7_001) if followed else (7_000, other)
            assert found == [("127.0.0.1", port) for port in ports]
        await made.aclose()


async def test_server_that_is_away_holds_up_its_own_keys_only(mortal: list[clusters.Node]) -> None:
    """While one server is frozen the calls of its keys are not counted, all others are, and then its too."""
    client = connect(clusters.url("cluster", mortal), timeout_s=0.3)
    assert isinstance(client, ClusterClient)
    await project(client, [record(key_id) for key_id in key_ids()])
    away = {
        key_id
        for key_id in key_ids()
        if client.topology.server_of(record_name(key_id)) == ("127.0.0.1", mortal[1].port)
    }
    async with counting(client, deadline_s=1) as counters:
        mortal[1].stop()
        for _ in range(5):
            for key_id in key_ids():
                if key_id not in away:
                    (answer,) = await ask(counters, key_id, 1)
                    assert answer.outcome is Outcome.GRANTED
        for key_id in away:
            assert (await ask(counters, key_id, 1))[0].outcome is Outcome.UNAVAILABLE
        assert away
        assert not counters.breaker.is_open
        mortal[1].go_on()
        async with asyncio.timeout(20):
            for key_id in away:
                while (await ask(counters, key_id, 1))[0].outcome is not Outcome.GRANTED:
                    await asyncio.sleep(0.05)
    for key_id in key_ids():
        used, back = await client.hmget(day_name(key_id, DAY), ["used", "back"])
        assert int(used) - int(back or 0) == (1 if key_id in away else 5)
    await client.aclose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memcached://host", "must begin with one of redis://"),
        ("redis+sentinel://host:26379", "ends with the name of its master"),
        ("redis+sentinel://host:26379/counts/first", "'first' is no number of a database"),
        ("redis+cluster://:secret@host:port", "'host:port' is no host:port"),
        ("redis+cluster://", "'' is no host:port"),
    ],
)
def test_url_that_is_none_is_refused_without_its_password(url: str, said: str) -> None:
    """What is wrong with a URL is told, and no password with it."""
    with pytest.raises(ValueError, match=said) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)
