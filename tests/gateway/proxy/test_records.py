"""The cache of key records: asked once, bounded, and never older than the answer to a later question."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import TypeVar

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.proxy.entry import RULINGS_MAX, Entry
from gateway.proxy.records import Records, Unavailable
from gateway.proxy.today import Moment
from metering.breaker import Breaker
from metering.counters import Take
from metering.lookups import EmptiedError, Found, Lookups
from policies.decision import Denied, Reason
from policies.methods import Call, MethodRule, Reading
from policies.record import KeyRecord
from tests.rig import EXAMPLE

T = TypeVar("T")
NOW = 1_790_000_000.0
DIGEST = "d" * 64
CALL = Call("GetItemFullInfo", "item", True)
MOMENT = Moment("20260101", 0)


def record(**fields: object) -> KeyRecord:
    """Return a record of a paying key."""
    base = KeyRecord("key_0000000000000001", "acc_1", "K1", 1, NOW - 1000, {DIGEST: None})
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type] # each test knows the fields


class Store(Lookups):
    """A store of records in memory, whose answers wait until they are let go."""

    def __init__(self, held: KeyRecord | None = None) -> None:
        self.held = held
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.filled = True
        self.seeking: list[asyncio.Future[None]] = []
        self.breaker = Breaker(lambda: NOW)
        self.doubts: list[float] = []

    def seek(self, digest: str, done: Callable[[Found], None]) -> None:
        async def answer() -> None:
            found: Found
            try:
                found = await self.fetch("")
            except Exception as error:  # noqa: BLE001 - as the real one answers
                found = error
            done(EmptiedError() if found is None and not self.filled else found)

        self.seeking.append(asyncio.ensure_future(answer()))

    async def fetch(self, key_id: str) -> KeyRecord | None:
        self.asked += 1
        held = self.held  # what the store holds when the question arrives
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return held


def records(store: Store, **changes: float) -> Records:
    """Return a cache in front of `store`."""
    settings: dict[str, float] = {"capacity": 3, "negative_s": 10.0, "timeout_s": 0.2, **changes}
    return Records(
        store,
        contract=EXAMPLE.contract,
        clock=lambda: NOW,
        breaker=store.breaker,
        doubt=store.doubts.append,
        **settings,  # type: ignore[arg-type]
    )


async def fetched(cache: Records, digest: str = DIGEST, now: float = NOW) -> Entry | Reason | Unavailable:
    """Ask for a digest and wait for the answer."""
    return await _answer(lambda done: cache.fetch(digest, now, done))


async def confirmed(cache: Records, entry: Entry) -> bool | Unavailable:
    """Ask whether an entry had to be renewed, and wait for the answer."""

    def ask(done: Callable[[bool | Unavailable], None]) -> None:
        cache.confirm(entry, done)

    return await _answer(ask)


async def _answer(ask: Callable[[Callable[[T], None]], None]) -> T:
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    ask(future.set_result)
    return await future


async def test_simultaneous_questions_for_one_key_are_one() -> None:
    """A thousand calls with a key that is not cached ask the store once."""
    store = Store(record())
    cache = records(store)
    answers = await asyncio.gather(*(fetched(cache) for _ in range(1000)))
    assert store.asked == 1
    assert len({id(answer) for answer in answers}) == 1
    assert cache.get(DIGEST, NOW) is answers[0]


async def test_an_unknown_key_is_remembered_for_a_while_only() -> None:
    """Within the bound the store is not asked again; after it, it is."""
    cache = records(Store(None))
    assert await fetched(cache) is Reason.UNKNOWN_KEY
    assert cache.get(DIGEST, NOW + 9.9) is Reason.UNKNOWN_KEY
    assert cache.get(DIGEST, NOW + 10) is None


async def test_a_clock_that_is_set_back_brings_back_what_held_then() -> None:
    """What was judged at a time that was none, and a key that did not exist then, are looked at anew."""
    store = Store(record(closed_at=NOW + 100))
    cache = records(store)
    entry = await fetched(cache)
    store.held = None
    assert await fetched(cache, "e" * 64, NOW + 86_400) is Reason.UNKNOWN_KEY
    assert isinstance(entry, Entry)
    assert cache.get(DIGEST, NOW + 86_400) is entry
    assert isinstance(entry.rule(CALL, MOMENT), Denied)
    cache.judge_anew()
    assert cache.get(DIGEST, NOW) is entry
    assert isinstance(entry.rule(CALL, MOMENT), Take)
    assert cache.get("e" * 64, NOW) is None


async def test_the_cache_is_bounded() -> None:
    """Over its capacity the oldest entries go."""
    cache = records(Store(record()))
    for number in range(5):
        await fetched(cache, f"{number:064d}")
    assert len(cache) == 3
    assert cache.get(f"{0:064d}", NOW) is None


@pytest.mark.parametrize(
    "fault", [RedisConnectionError("gone"), OSError("gone"), ValueError("no record"), None]
)
async def test_a_store_that_fails_or_hangs_is_unavailable(fault: Exception | None) -> None:
    """Neither an error nor silence of the store leaves a call waiting."""
    store = Store(record())
    store.fault = fault
    if fault is None:
        store.gate.clear()
    cache = records(store)
    assert isinstance(await fetched(cache), Unavailable)
    store.fault = None
    store.gate.set()
    assert isinstance(await fetched(cache), Entry)


async def test_each_question_is_given_up_in_its_own_time() -> None:
    """A silent store keeps each call waiting for the time limit, and one that asks later no shorter."""
    store = Store(record())
    store.gate.clear()
    cache = records(store, timeout_s=0.3)
    clock = asyncio.get_running_loop().time
    began = clock()
    first = asyncio.ensure_future(fetched(cache, "a" * 64))
    await asyncio.sleep(0.15)
    second = asyncio.ensure_future(fetched(cache, "b" * 64))
    assert isinstance(await first, Unavailable)
    assert isinstance(await second, Unavailable)
    assert clock() - began >= 0.44
    assert store.doubts == sorted(store.doubts)
    assert len(store.doubts) == 2


async def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    """What answers a question that was given up is not taken for the answer to the next one."""
    store = Store(record())
    store.gate.clear()
    cache = records(store, timeout_s=0.1)
    assert isinstance(await fetched(cache), Unavailable)
    late, store.gate = store.gate, asyncio.Event()
    again = asyncio.ensure_future(fetched(cache))
    await asyncio.sleep(0)
    late.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not again.done()
    store.held = None
    store.gate.set()
    assert isinstance(await again, Entry)


async def test_an_emptied_store_is_no_word_on_any_key() -> None:
    """A store that has no record at all does not make a key unknown."""
    store = Store(None)
    store.filled = False
    cache = records(store)
    assert isinstance(await fetched(cache), Unavailable)
    assert cache.get(DIGEST, NOW) is None
    assert store.doubts == []


async def test_whoever_asks_during_a_confirmation_gets_a_later_answer() -> None:
    """A record changed after the first question left, and before the second came, is seen by the second."""
    store = Store(record(suspended=True))
    cache = records(store)
    entry = await fetched(cache)
    assert isinstance(entry, Entry)
    store.gate.clear()
    first = asyncio.ensure_future(confirmed(cache, entry))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.held = record(revision=2)
    second = asyncio.ensure_future(confirmed(cache, entry))
    await asyncio.sleep(0)
    store.gate.set()
    assert (await first, await second) == (False, True)
    assert not isinstance(entry.rule(CALL, MOMENT), Denied)
    assert store.asked == 3


async def test_a_record_that_is_gone_cannot_be_confirmed() -> None:
    """When the store has lost the record, the cached one is dropped and decides nothing."""
    store = Store(record(suspended=True))
    cache = records(store)
    entry = await fetched(cache)
    assert isinstance(entry, Entry)
    store.held = None
    assert isinstance(await confirmed(cache, entry), Unavailable)
    assert cache.get(DIGEST, NOW) is None


async def test_an_entry_is_judged_anew_when_its_time_has_come() -> None:
    """A credential that ends, ends at its second without any news from the store."""
    cache = records(Store(record(credentials={DIGEST: NOW + 5})))
    entry = await fetched(cache)
    assert isinstance(entry, Entry)
    assert cache.get(DIGEST, NOW + 4.9) is entry
    assert not isinstance(entry.rule(CALL, MOMENT), Denied)
    assert cache.get(DIGEST, NOW + 5) is entry
    assert entry.rule(CALL, MOMENT) == Denied(Reason.EXPIRED_KEY)


async def test_equal_calls_share_one_take_within_a_bucket() -> None:
    """What is to be counted is the same object for one method, day and bucket."""
    cache = records(Store(record()))
    entry = await fetched(cache)
    assert isinstance(entry, Entry)
    assert entry.rule(CALL, MOMENT) is entry.rule(CALL, MOMENT)
    assert entry.rule(CALL, MOMENT) != entry.rule(CALL, Moment("20260102", 0))


async def test_a_ruling_is_remembered_for_the_very_same_reading_rule_and_moment() -> None:
    """Whatever is another object may be another call, and is decided anew; a refusal is never remembered."""
    entry = await fetched(records(Store(record())))
    assert isinstance(entry, Entry)
    rule, reading = MethodRule(("GetItemFullInfo",), "item", billable=True), Reading()
    call, take = entry.rule_on("GetItemFullInfo", rule, reading, MOMENT)
    known = entry.recall("GetItemFullInfo", rule, reading, MOMENT)
    assert known is not None
    assert (known.call, known.take) == (call, take)
    assert entry.recall("GetItemInfo", rule, reading, MOMENT) is None
    assert entry.recall("GetItemFullInfo", dataclasses.replace(rule), reading, MOMENT) is None
    assert entry.recall("GetItemFullInfo", rule, Reading(), MOMENT) is None
    assert entry.recall("GetItemFullInfo", rule, reading, Moment(*MOMENT)) is None
    entry.renew(record(suspended=True), EXAMPLE.contract, NOW)
    assert entry.recall("GetItemFullInfo", rule, reading, MOMENT) is None
    assert entry.rule_on("GetItemFullInfo", rule, reading, MOMENT)[1] == Denied(Reason.SUSPENDED)
    assert entry.recall("GetItemFullInfo", rule, reading, MOMENT) is None


async def test_calls_that_cost_another_are_another_take() -> None:
    """Takes of one key are told apart by all that is counted of them, and each is found again."""
    entry = await fetched(records(Store(record())))
    assert isinstance(entry, Entry)
    calls = [
        CALL,
        CALL._replace(method="SearchItemsFrame"),
        CALL._replace(klass="search"),
        CALL._replace(billable=False),
        CALL._replace(cost=2),
    ]
    takes = [entry.rule(call, MOMENT) for call in calls]
    assert all(isinstance(take, Take) for take in takes)
    assert len(set(takes)) == len(calls)
    assert all(entry.rule(call, MOMENT) is take for call, take in zip(calls, takes, strict=True))


async def test_each_ruling_is_found_again() -> None:
    """The first ruling on a key's calls and all further ones are remembered, each for its own call."""
    entry = await fetched(records(Store(record())))
    assert isinstance(entry, Entry)
    rule, reading = MethodRule(("GetItemFullInfo",), "item", billable=True), Reading()
    names = [f"GetItem{number}" for number in range(5)]
    ruled = [entry.rule_on(name, rule, reading, MOMENT) for name in names]
    for name, (call, take) in zip(names, ruled, strict=True):
        known = entry.recall(name, rule, reading, MOMENT)
        assert known is not None
        assert (known.call.method, known.call, known.take) == (name, call, take)


async def test_memory_of_rulings_is_bounded() -> None:
    """However differently a key's calls are read, only so many rulings are kept."""
    entry = await fetched(records(Store(record())))
    assert isinstance(entry, Entry)
    rule = MethodRule(("GetItemFullInfo",), "item", billable=True)
    for _ in range(3 * RULINGS_MAX):
        entry.rule_on("GetItemFullInfo", rule, Reading(), MOMENT)
    assert entry._rulings is not None
    assert len(entry._rulings) <= RULINGS_MAX + 1
