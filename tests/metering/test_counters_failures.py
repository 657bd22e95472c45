"""What counters answer and count while Redis fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hiredis import ReplyError
from redis.asyncio import Redis

from gateway.data_dir import run_directory
from gateway.stores import EmbeddedValkey
from metering import names
from metering.batches import Owed
from metering.clients import connect
from metering.commands import Command
from metering.counters import Counters, Outcome, Taken
from metering.link import Answered
from policies.decision import Reason
from policies.quota import Window
from policies.waiver import Waiver
from tests import servers
from tests.metering.lossy import Lossy, lossy
from tests.metering.overhearing import overhear
from tests.metering.samples import (
    DAY,
    KEY,
    NOW,
    counted,
    counting,
    day_of_key,
    put_record,
    settled,
    take,
    window_of_key,
)

METHOD = "SearchItemsFrame|search"


@pytest.fixture
async def proxy(valkey_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[tuple[Lossy, Redis]]:
    """A proxy that loses what it is told to, and a client that goes through it."""
    await put_record(redis)
    async with lossy(valkey_url, tmp_path) as (broken, url):
        client = connect(url, timeout_s=0.3)
        yield broken, client
        await client.aclose()


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A running Valkey of the test's own, to be stopped and killed."""
    store = EmbeddedValkey(tmp_path, run_directory(tmp_path))
    with servers.process(store):
        yield store


@pytest.fixture
async def own_valkey(own_store: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client of the test's own Valkey, with a key's record in it."""
    client = connect(own_store.url, timeout_s=0.2)
    await put_record(client)
    yield client
    await client.aclose()


async def until(counters: Counters, holds: Callable[[Counters], object]) -> None:
    """Wait until something holds of the counters; fails after a time that no busy machine takes."""
    async with asyncio.timeout(15):
        while not holds(counters):
            await asyncio.sleep(0.001)


def change_the_deadline(counters: Counters, deadline_s: float) -> None:
    """Give what comes from now on another deadline; a short one is only for a server that does not answer."""
    if counters._timer is not None:
        counters._timer.cancel()
        counters._timer = None
    counters._deadline_s = deadline_s


def let_the_deadline_pass(counters: Counters) -> None:
    """Have what is under way be older than the deadline."""
    assert counters._flight is not None
    counters._flight.since -= counters._deadline_s
    counters._watch()


@pytest.mark.parametrize("window", Window)
@pytest.mark.parametrize("times", [1, 3])
async def test_lost_reply_counts_once(
    redis: Redis, proxy: tuple[Lossy, Redis], window: Window, times: int
) -> None:
    """A batch that ran and whose reply was lost is sent again, answers the same, and has no second effect."""
    broken, client = proxy
    async with counting(client) as counters:
        await counted(counters, take(method="Other", window=window))
        broken.lose_replies = times
        calls = [take(limit=10, cost=3, window=window), take(limit=10, cost=2, window=window, billable=False)]
        results = await counted(counters, *calls * 2)
    assert broken.lost == times
    assert [each.outcome.value for each in results] == ["granted", "granted", "granted", "exhausted"]
    counts = await day_of_key(redis)
    assert counts == {
        "used": 9,
        "c:Other|search": 1,
        "t:Other|search": 1,
        f"c:{METHOD}": 3,
        f"t:{METHOD}": 8,
        f"w:{METHOD}": 2,
        "v:free_method": 2,
        "d:quota_exceeded": 1,
    }
    if window is Window.ROLLING_24H:
        assert (await window_of_key(redis))["sum"] == 9


async def test_lost_reply_of_a_stale_call_is_stale_again(redis: Redis, proxy: tuple[Lossy, Redis]) -> None:
    """A batch of which one call was granted and one was stale is answered so again."""
    broken, client = proxy
    new = await put_record(redis, revision=2)
    async with counting(client) as counters:
        broken.lose_replies = 1
        old, right = await counted(counters, take(revision=1), take(revision=2))
    assert broken.lost == 1
    assert (old, right) == (Taken(Outcome.STALE, 0, new), Taken(Outcome.GRANTED, 1))
    assert (await day_of_key(redis))["used"] == 1


async def test_lost_reply_settles_once(redis: Redis, proxy: tuple[Lossy, Redis]) -> None:
    """Settlements whose reply was lost are added once, and the window gets its units back once."""
    broken, client = proxy
    call = take(window=Window.ROLLING_24H, cost=2)
    async with counting(client) as counters:
        await counted(counters, *[call] * 3)
        broken.lose_replies = 2
        counters.waive(call, Waiver.ERROR_CODE)
        counters.charge_more(call, 5)
        counters.deny(KEY, DAY, Reason.SUSPENDED)
        await settled(counters)
    assert broken.lost == 2
    counts = await day_of_key(redis)
    assert (counts["used"], counts["back"], counts["d:suspended"]) == (11, 2, 1)
    assert (await window_of_key(redis))["sum"] == 9


async def test_request_that_never_arrived_is_counted_when_sent_again(
    redis: Redis, proxy: tuple[Lossy, Redis]
) -> None:
    """A batch lost on its way to Redis is counted by the next attempt."""
    broken, client = proxy
    async with counting(client) as counters:
        broken.lose_requests = 2
        results = await counted(counters, take(), take())
    assert broken.lost == 2
    assert [each.outcome for each in results] == [Outcome.GRANTED] * 2
    assert (await day_of_key(redis))["used"] == 2


async def test_late_copy_of_an_old_batch_has_no_effect(redis: Redis) -> None:
    """A copy of a batch that a network held back does nothing once that batch or a later one was counted."""
    await put_record(redis)
    async with counting(redis) as counters:
        recorded = overhear(counters)
        await counted(counters, take(limit=5))
        counters.deny(KEY, DAY, Reason.BANNED)
        await settled(counters)
        await counted(counters, take(limit=5))
    before = await redis.hgetall(names.day_name(KEY, DAY))
    for command in recorded:
        await redis.execute_command(*command)
    assert await redis.hgetall(names.day_name(KEY, DAY)) == before


async def test_restarted_process_is_another_writer(redis: Redis) -> None:
    """Numbers begin anew with a process, and are not taken for those of the one before."""
    await put_record(redis)
    for _ in range(3):
        async with counting(redis, writer="w0") as counters:
            await counted(counters, take())
    assert (await day_of_key(redis))["used"] == 3


async def test_flushed_scripts_are_loaded_again(redis: Redis) -> None:
    """A Redis that forgot the scripts gets them again, and each call is counted once."""
    await put_record(redis)
    async with counting(redis) as counters:
        for _ in range(3):
            await redis.script_flush()
            counters.deny(KEY, DAY, Reason.BANNED)
            (taken,) = await counted(counters, take())
            assert taken.outcome is Outcome.GRANTED
        await settled(counters)
    counts = await day_of_key(redis)
    assert (counts["used"], counts["d:banned"]) == (3, 3)


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_server_that_cannot_load_the_scripts_is_left(redis: Redis, is_loaded: bool) -> None:
    """Where they were loaded, the round is sent again at once; where not, it is as with any refusal."""
    async with counting(redis) as counters:
        await counted(counters, take())
        wire: Any = counters._wire
        ask, exchange, close = wire.ask, wire.exchange, wire.close
        unknown = ReplyError("NOSCRIPT No matching script.")
        refused = ReplyError("READONLY You can't write against a read only replica.")
        answers = [[unknown], [b"sha", b"sha" if is_loaded else refused], [[7]]]
        done: list[object] = []

        async def answer(commands: Sequence[Command]) -> list[Any]:
            done.append(commands[0][0])
            return answers.pop(0)

        async def note_close() -> None:
            done.append("closed")

        wire.ask, wire.exchange, wire.close = lambda *_: False, answer, note_close
        assert await counted(counters, take()) == [Taken(Outcome.GRANTED, 7)]
        wire.ask, wire.exchange, wire.close = ask, exchange, close
    assert done == ["EVALSHA", "SCRIPT", *([] if is_loaded else ["closed"]), "EVALSHA"]


@pytest.mark.parametrize("blocked", ["oom", "readonly"])
async def test_server_that_refuses_writes_fails_calls_and_recovers(own_valkey: Redis, blocked: str) -> None:
    """Calls are unavailable while Redis is out of memory or read-only; afterwards each is counted once."""
    client = own_valkey
    async with counting(client) as counters:
        await counted(counters, take())
        if blocked == "oom":
            await client.config_set("maxmemory", "1")
        else:
            await client.replicaof("127.0.0.1", "1")
        refused = asyncio.ensure_future(counted(counters, take(), take()))
        await until(counters, lambda counters: counters.last_error)
        let_the_deadline_pass(counters)
        assert [each.outcome for each in await refused] == [Outcome.UNAVAILABLE] * 2
        assert counters.breaker.is_open
        assert ("OOM" if blocked == "oom" else "READONLY") in counters.breaker.why
        assert [each.outcome for each in await counted(counters, take())] == [Outcome.UNAVAILABLE]
        if blocked == "oom":
            await client.config_set("maxmemory", "0")
        else:
            await client.replicaof("NO", "ONE")
        await settled(counters)
        assert counters.last_error is None
        assert not counters.breaker.is_open
        (taken,) = await counted(counters, take())
    # The two that gave up were counted when Redis was back, and waived.
    assert taken == Taken(Outcome.GRANTED, 2)
    counts = await day_of_key(client)
    assert (counts["used"], counts["back"], counts["v:not_forwarded"]) == (4, 2, 2)


async def test_stopped_server_makes_no_call_wait_longer_than_the_deadline(
    own_valkey: Redis,
) -> None:
    """While Redis hangs, calls are unavailable after the deadline, then at once; afterwards all adds up."""
    client = own_valkey
    loop = asyncio.get_running_loop()
    server = (await client.info("server"))["process_id"]
    outcomes: Counter[Outcome] = Counter()
    async with counting(client) as counters:
        await counted(counters, take())
        os.kill(server, signal.SIGSTOP)
        change_the_deadline(counters, 0.3)
        try:
            began = loop.time()
            first = asyncio.ensure_future(counted(counters, *[take()] * 5))
            await until(counters, lambda counters: counters._flight)  # the batch is on its way
            assert counters._timer is not None
            assert began <= counters._timer.when() - 0.3 <= loop.time()
            second = asyncio.ensure_future(counted(counters, *[take()] * 7))  # these form the next one
            async with asyncio.timeout(15):
                for waiting in (first, second):
                    outcomes.update(each.outcome for each in await waiting)
            assert loop.time() - began >= 0.3
            at_once: list[Taken] = []
            counters.take(take(), NOW, at_once.append)
            await asyncio.sleep(0)
            assert at_once == [Taken(Outcome.UNAVAILABLE, 0)]
            await asyncio.sleep(0.5)  # several attempts pile up in front of the server
        finally:
            os.kill(server, signal.SIGCONT)
        await settled(counters)
        change_the_deadline(counters, 5)
        outcomes.update(each.outcome for each in await counted(counters, take()))
    assert outcomes == {Outcome.UNAVAILABLE: 12, Outcome.GRANTED: 1}
    counts = await day_of_key(client)
    # The first batch was on its way, and its calls are counted and waived; the others were never sent.
    assert (counts["used"], counts["back"], counts[f"w:{METHOD}"]) == (7, 5, 5)


async def test_short_stop_within_the_deadline_loses_nothing(own_valkey: Redis) -> None:
    """Calls that wait through a stop shorter than the deadline are granted, each counted once."""
    client = own_valkey
    server = (await client.info("server"))["process_id"]
    async with counting(client, deadline_s=15) as counters:
        await counted(counters, take())
        os.kill(server, signal.SIGSTOP)
        try:
            waiting = asyncio.ensure_future(counted(counters, *[take()] * 20))
            await asyncio.sleep(0.5)  # more than twice the time after which a request is sent again
        finally:
            os.kill(server, signal.SIGCONT)
        assert Counter(each.outcome for each in await waiting) == {Outcome.GRANTED: 20}
    assert await day_of_key(client) == {"used": 21, f"c:{METHOD}": 21, f"t:{METHOD}": 21}


async def test_killed_server_keeps_what_it_answered(own_store: EmbeddedValkey, own_valkey: Redis) -> None:
    """After kill -9 and a restart, all answered calls are counted, and counting goes on by itself."""
    client = own_valkey
    server = (await client.info("server"))["process_id"]
    with contextlib.ExitStack() as restarted:
        async with counting(client, deadline_s=30) as counters:
            calls = []
            for number in range(400):
                calls.append(asyncio.ensure_future(counted(counters, take())))
                if number == 200:
                    os.kill(server, signal.SIGKILL)
                await asyncio.sleep(0)
            await asyncio.to_thread(restarted.enter_context, servers.process(own_store))
            results = await asyncio.gather(*calls)
        assert Counter(taken.outcome for (taken,) in results) == {Outcome.GRANTED: 400}
        assert (await day_of_key(client))["used"] == 400


@pytest.mark.parametrize(("error", "said"), [(OSError("cut off"), "cut off"), (OSError(), "OSError")])
async def test_round_that_failed_at_once_is_known_to_have_failed(
    redis: Redis, error: Exception, said: str
) -> None:
    """What the first attempt came to is told while the second one is under way, and counts as an attempt."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take())
        wire: Any = counters._wire
        ask, exchange = wire.ask, wire.exchange
        told: list[str | None] = []

        def fail(_: object, answered: Answered) -> bool:
            wire.ask = ask
            asyncio.get_running_loop().call_soon(answered, error)
            return True

        async def heard_exchange(commands: Sequence[Command]) -> list[Any]:
            told.append(counters.last_error)
            replies: list[Any] = await exchange(commands)
            return replies

        wire.ask, wire.exchange = fail, heard_exchange
        assert await counted(counters, take()) == [Taken(Outcome.GRANTED, 2)]
    assert told == [said]


async def test_close_is_bounded_while_redis_is_away(tmp_path: Path) -> None:
    """Closing waits for the deadline at most, and answers whoever still waits."""
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_s=0.2)
    counters = Counters(client, writer="w0", deadline_s=0.2, retention_days=35)
    await counters.start()
    await until(counters, lambda counters: counters.last_error)
    assert "nobody.sock" in str(counters.last_error)
    waiting = asyncio.ensure_future(counted(counters, take()))
    await asyncio.sleep(0)
    async with asyncio.timeout(15):
        await counters.close()
        assert await waiting == [Taken(Outcome.UNAVAILABLE, 0)]
    await client.aclose()


async def test_answer_that_comes_after_the_end_changes_nothing(redis: Redis) -> None:
    """What was in doubt when counting ended is kept as such, and must not be settled meanwhile."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take())
        change_the_deadline(counters, 0.05)
        kept: list[Answered] = []

        def keep(_: object, answered: Answered) -> bool:
            kept.append(answered)
            return True

        wire: Any = counters._wire
        wire.ask = keep
        counters.deny(KEY, DAY, Reason.BANNED)
        await counters.close()
        (answered,) = kept
        answered([[1]])
        assert [each.owed for each in counters.in_doubt()] == [{(KEY, DAY): Owed({"d:banned": 1})}]


async def test_counts_that_too_few_replicas_have_are_not_granted(valkey_url: str, redis: Redis) -> None:
    """A server that stands alone has none: why the round is sent again is told."""
    await put_record(redis)
    client = connect(valkey_url, timeout_s=0.2)
    counters = Counters(client, writer="w0", deadline_s=0.5, retention_days=35, replicas=1)
    await counters.start()
    assert [each.outcome for each in await counted(counters, take())] == [Outcome.UNAVAILABLE]
    await until(counters, lambda counters: "0 of 1 replicas" in str(counters.last_error))
    await counters.close()
    await client.aclose()


async def test_close_ends_though_a_cancellation_was_swallowed(redis: Redis) -> None:
    """`asyncio.wait_for` of Python 3.11, which the client library uses, may swallow one that comes late."""
    deaf = [asyncio.CancelledError]

    async def unanswered(_: object) -> list[object]:
        with contextlib.suppress(*deaf):
            await asyncio.sleep(60)
        deaf.clear()
        raise OSError("not answered")

    async with counting(redis) as counters:
        await settled(counters)
        change_the_deadline(counters, 0.1)
        wire: Any = counters._wire
        wire.ask, wire.exchange = lambda *_: False, unanswered
        counters.deny(KEY, DAY, Reason.BANNED)
        async with asyncio.timeout(15):
            await counters.close()
        assert [each.owed for each in counters.in_doubt()] == [{(KEY, DAY): Owed({"d:banned": 1})}]


async def test_an_outage_is_noticed_without_a_call_to_count(own_valkey: Redis) -> None:
    """Who was not answered says so, and the breaker opens by the deadline and closes when Redis is back."""
    client = own_valkey
    loop = asyncio.get_running_loop()
    server = (await client.info("server"))["process_id"]
    changes: list[bool] = []
    async with counting(client) as counters:
        counters.breaker.listen(lambda ended: changes.append(ended is None))
        await counted(counters, take())
        os.kill(server, signal.SIGSTOP)
        change_the_deadline(counters, 0.2)
        try:
            counters.doubt(loop.time() - 60)
            await until(counters, lambda counters: counters.breaker.is_open)
        finally:
            os.kill(server, signal.SIGCONT)
        await until(counters, lambda counters: not counters.breaker.is_open)
        change_the_deadline(counters, 5)
        assert [each.outcome for each in await counted(counters, take())] == [Outcome.GRANTED]
    assert changes == [True, False]
    assert (await day_of_key(client))["used"] == 2


async def test_each_call_has_the_whole_deadline(redis: Redis) -> None:
    """The one timer of all calls goes on until the deadline of the call that waits now."""
    async with counting(redis) as counters:
        loop = asyncio.get_running_loop()
        await counted(counters, take())
        begun = loop.time()
        change_the_deadline(counters, 100)
        waiting = asyncio.ensure_future(counted(counters, take()))
        await asyncio.sleep(0)
        for under_way in (False, True):
            while under_way and counters._flight is None:
                await asyncio.sleep(0)
            change_the_deadline(counters, 100)
            counters._watch()
            assert counters._timer is not None
            assert counters._timer.when() == counters._since + 100
            assert begun <= counters._since <= loop.time()
            assert not counters.breaker.is_open
        await waiting
        assert counters.last_error is None
        change_the_deadline(counters, 100)
        counters._watch()
        assert counters._timer is None


async def test_settlement_has_the_whole_deadline_too(redis: Redis) -> None:
    """Without a call in it, a round is as old as itself, and not as the call before it."""
    await put_record(redis)
    async with counting(redis) as counters:
        loop = asyncio.get_running_loop()
        await counted(counters, take())
        begun = loop.time()
        counters.deny(KEY, DAY, Reason.BANNED)
        while counters._flight is None:
            await asyncio.sleep(0)
        assert begun <= counters._flight.since <= loop.time()
        await settled(counters)


async def test_later_call_is_given_up_at_its_own_deadline(own_valkey: Redis) -> None:
    """A call that came while the timer of an earlier one ran is answered, and told why it was not counted."""
    server = (await own_valkey.info("server"))["process_id"]
    async with counting(own_valkey) as counters:
        await counted(counters, take())
        change_the_deadline(counters, 0.1)
        os.kill(server, signal.SIGSTOP)
        counters._timer = asyncio.get_running_loop().call_later(0.05, counters._watch)
        try:
            async with asyncio.timeout(15):
                (taken,) = await counted(counters, take())
            assert taken == Taken(Outcome.UNAVAILABLE, 0)
            assert counters.breaker.why == "Redis did not answer in time"
        finally:
            os.kill(server, signal.SIGCONT)


async def test_calls_that_were_not_sent_in_time_do_not_end_the_counting(redis: Redis) -> None:
    """A process that stood still as long as the deadline may be told of that before it has sent anything."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take())
        late: list[Taken] = []
        counters.take(take(), NOW, late.append)
        counters._since -= counters._deadline_s
        counters._watch()
        assert counters.breaker.is_open
        assert [each.outcome for each in late] == [Outcome.UNAVAILABLE]
        await until(counters, lambda counters: not counters.breaker.is_open)
        assert await counted(counters, take()) == [Taken(Outcome.GRANTED, 2)]


async def test_a_needless_doubt_changes_nothing(redis: Redis) -> None:
    """A sign of life is asked for and comes; nothing is counted and the breaker stays closed."""
    async with counting(redis, deadline_s=20) as counters:
        for _ in range(3):
            if counters._timer is not None:
                counters._timer.cancel()
                counters._timer = None  # as if the last deadline had gone by
            counters.doubt(asyncio.get_running_loop().time() - 60)
            await asyncio.sleep(0.01)
        assert counters.breaker.openings == 0
    assert await redis.keys("*") == []


async def test_a_doubt_while_a_round_is_under_way_is_answered_by_it(redis: Redis) -> None:
    """Whether Redis answers is known soon without a sign of life of its own."""
    async with counting(redis) as counters:
        await counted(counters, take())
        heard = overhear(counters)
        asked = asyncio.ensure_future(counted(counters, take()))
        while counters._flight is None:
            await asyncio.sleep(0)
        counters.doubt(asyncio.get_running_loop().time())
        await asked
    assert ("PING",) not in heard


@pytest.mark.parametrize(("waited", "left"), [(90, 25), (60, 40), (0, 100)])
async def test_a_sign_of_life_has_a_quarter_of_the_deadline(redis: Redis, waited: int, left: int) -> None:
    """Whoever was not answered has waited already; what is left of the deadline is at least a quarter."""
    loop = asyncio.get_running_loop()
    async with counting(redis) as counters:
        await counted(counters, take())
        change_the_deadline(counters, 100)
        begun = loop.time()
        counters.doubt(begun - waited)
        counters.doubt(begun + 1)  # the first that was not answered is the one that counts
        await until(counters, lambda counters: counters._timer)
        assert counters._timer is not None
        assert begun - 0.001 <= counters._timer.when() - left <= loop.time() + 0.001


async def test_nothing_is_counted_after_the_end(redis: Redis) -> None:
    """Whoever comes after closing is answered at once."""
    await put_record(redis)
    async with counting(redis) as counters:
        pass
    assert [each.outcome for each in await counted(counters, take())] == [Outcome.UNAVAILABLE]


async def test_settlements_outlive_an_outage(redis: Redis, proxy: tuple[Lossy, Redis]) -> None:
    """What is settled while Redis is away is added up and written when it is back."""
    broken, client = proxy
    call = take()
    async with counting(client) as counters:
        await counted(counters, *[call] * 4)
        broken.lose_requests = 4
        for _ in range(4):
            counters.waive(call, Waiver.UPSTREAM_TIMEOUT)
            counters.deny(KEY, DAY, Reason.BANNED)
            await asyncio.sleep(0.02)
        await settled(counters)
    counts = await day_of_key(redis)
    assert (counts["back"], counts["v:upstream_timeout"], counts["d:banned"]) == (4, 4, 4)


async def test_redis_that_came_back_empty_counts_nothing(redis: Redis) -> None:
    """Keys are missing, and nothing is counted, until the emptied Redis has been rebuilt."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take())
        await redis.flushall()
        assert [each.outcome for each in await counted(counters, take(), take())] == [Outcome.MISSING] * 2
        counters.take(take(), NOW, lambda _: None)
    assert await redis.keys("*") == []
