"""Every kind of fault that a run can inject: what is armed at once, and what takes its turn on one victim."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from redis.asyncio import Redis

from tests.faults.load import CLIENT_FAULTS, Load
from tests.faults.proxy import FAULTS, FaultProxy
from tests.faults.stage import Stage, Store

LINKS = ("redis", "upstream", "ledger")
REPLIES = {
    "OOM": b"OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY": b"READONLY You can't write against a read only replica.",
    "LOADING": b"LOADING Redis is loading the dataset in memory",
    "MISCONF": b"MISCONF Errors writing to the AOF file: No space left on device",
}
ON_LINKS = tuple(f"{link} {fault}" for link in LINKS for fault in FAULTS)
ON_REDIS = (
    "redis cut",
    "redis refused",
    *(f"redis {error}" for error in REPLIES),
    "redis NOSCRIPT",
    "redis stopped",
    "redis killed",
)
ON_UPSTREAM = ("upstream cut", "upstream refused")
ON_LEDGER = ("ledger cut", "ledger refused", "ledger stopped", "ledger killed")
ON_CONTROL = ("control killed",)
ON_WORKERS = ("worker stopped", "worker killed")
VICTIMS = {
    "redis": ON_REDIS,
    "upstream": ON_UPSTREAM,
    "ledger": ON_LEDGER,
    "control": ON_CONTROL,
    "workers": ON_WORKERS,
}
KINDS = (*ON_LINKS, *CLIENT_FAULTS, *(kind for kinds in VICTIMS.values() for kind in kinds))
SLOW = (
    "redis killed",
    "ledger stopped",
    "ledger killed",
    "control killed",
    "worker stopped",
    "worker killed",
)
UNSETTLED_S = 0.5  # within which a waiver has reached Redis, when Redis is well
LONG_AGO, NOT_YET = float("-inf"), float("inf")


class Spell:
    """Strikes that leave no rest between them: what waited before the first may wait until after the last."""

    def __init__(self, rest_s: float) -> None:
        """Take how long a victim has to be well for nothing to wait any more."""
        self._rest_s = rest_s
        self._began = self._ended = LONG_AGO

    def strike(self, now: float) -> None:
        """Note that a strike begins."""
        if now - self._ended > self._rest_s:
            self._began = now
        self._ended = NOT_YET

    def recover(self, now: float) -> None:
        """Note that it ends."""
        self._ended = now

    def since(self, now: float) -> float:
        """Return since when the victim has had no rest; `now` when it has."""
        return now if now - self._ended > self._rest_s else self._began


class Faults:
    """Injects faults into a stage under load, and counts them when they have struck."""

    def __init__(self, stage: Stage, load: Load, seed: int) -> None:
        self._stage = stage
        self._load = load
        self._chance = random.Random(seed)
        self._own: Counter[str] = Counter()
        self._turns: dict[str, deque[str]] = {victim: deque() for victim in VICTIMS}
        self._busy: set[str] = set()
        self._redis_ill = Spell(UNSETTLED_S)
        self._redis = Redis.from_url(stage.valkey.url)
        self._tasks: set[asyncio.Task[None]] = set()
        self.errors: list[BaseException] = []

    @property
    def struck(self) -> Counter[str]:
        """Return how many faults of each kind have struck."""
        found = Counter(self._own)
        found.update(self._load.struck)
        for link in LINKS:
            found.update({f"{link} {fault}": times for fault, times in self._proxy(link).struck.items()})
        return found

    @property
    def waiting(self) -> int:
        """Return how many faults were asked for and have not struck yet."""
        turns = sum(map(len, self._turns.values())) + len(self._busy)
        return turns + self._load.armed + sum(self._proxy(link).armed for link in LINKS)

    def inject(self, kind: str) -> None:
        """Inject a fault now, or as soon as its victim has got over the one before."""
        if kind in CLIENT_FAULTS:
            self._load.arm(kind)
            return
        if kind in ON_LINKS:
            link, fault = kind.split(" ")
            self._proxy(link).arm(fault)
            return
        victim = next(victim for victim, kinds in VICTIMS.items() if kind in kinds)
        self._turns[victim].append(kind)
        if victim not in self._busy:
            self._busy.add(victim)
            task = asyncio.ensure_future(self._take_turns(victim))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let go of Redis."""
        await self._redis.aclose()

    def _proxy(self, link: str) -> FaultProxy:
        proxy: FaultProxy = getattr(self._stage, link)
        return proxy

    async def _take_turns(self, victim: str) -> None:
        turns = self._turns[victim]
        try:
            while turns:
                kind = turns.popleft()
                await self._strike(kind)
                if kind not in ("redis cut", "upstream cut", "ledger cut"):  # their proxies count these
                    self._own[kind] += 1
                await asyncio.sleep(0.02 * self._chance.random())
        except Exception as error:  # noqa: BLE001 - told at the end of the run, which must not hang
            self.errors.append(error)
            turns.clear()
        finally:
            self._busy.discard(victim)

    async def _strike(self, kind: str) -> None:
        victim, what = kind.split(" ")
        if victim == "redis":
            self._redis_ill.strike(time.time())
            try:
                await self._strike_redis(what)
            finally:
                self._redis_ill.recover(time.time())
        elif victim == "worker":
            await self._strike_worker(what)
        elif victim == "control":
            await self._kill_control()
        else:
            await self._strike_link(victim, what)

    async def _strike_redis(self, what: str) -> None:
        proxy = self._stage.redis
        if what in REPLIES:
            proxy.error = REPLIES[what]
            await self._rest(0.03, 0.15)
            proxy.error = None
        elif what == "NOSCRIPT":
            await self._redis.script_flush()
        else:
            await self._strike_link("redis", what)

    async def _strike_link(self, link: str, what: str) -> None:
        proxy = self._proxy(link)
        if what == "cut":
            proxy.cut(one=self._chance.random() < 0.5)
        elif what == "refused":
            proxy.refusing = True
            proxy.cut()
            proxy.struck["cut"] -= 1
            await self._rest(0.03, 0.15)
            proxy.refusing = False
        else:
            await self._strike_store(self._stage.valkey if link == "redis" else self._stage.postgres, what)

    async def _strike_store(self, store: Store, what: str) -> None:
        if what == "stopped":
            store.send(signal.SIGSTOP)
            await self._rest(0.05, 0.5)
            store.send(signal.SIGCONT)
        else:
            await asyncio.to_thread(store.kill)
            await asyncio.to_thread(store.start)

    async def _strike_worker(self, what: str) -> None:
        before = await asyncio.to_thread(self._stage.program.workers)
        victim = self._chance.choice(before)
        if what == "stopped":
            os.kill(victim, signal.SIGSTOP)
            await self._rest(0.05, 0.5)
            os.kill(victim, signal.SIGCONT)
            return
        now = time.time()
        self._load.unsettle(self._redis_ill.since(now) - 2 * UNSETTLED_S)
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(0.05)
        self._load.unsettle(now - UNSETTLED_S)  # what its last answers have just told
        await self._until(lambda: self._are_back(victim, len(before)))

    def _are_back(self, dead: int, count: int) -> bool:
        """Say whether all workers answer again."""
        workers = self._stage.program.workers()
        places = [(self._stage.program.data_dir / "run" / f"worker-{n}.sock").resolve() for n in range(count)]
        return dead not in workers and len(workers) == count and all(map(_answers, places))

    async def _kill_control(self) -> None:
        program = self._stage.program
        before = (await asyncio.to_thread(program.family))["gateway.control"]
        before.kill()

        def is_back() -> bool:
            if program.family().get("gateway.control", before) == before:
                return False
            try:
                program.control_text("/healthz")
            except (OSError, AssertionError):
                return False
            return True

        await self._until(is_back)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(_holds, condition):
                await asyncio.sleep(0.03)

    def _rest(self, least_s: float, most_s: float) -> Awaitable[None]:
        return asyncio.sleep(self._chance.uniform(least_s, most_s))


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except psutil.Error:  # a process that ends while it is looked at
        return False


def _answers(place: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2.0)
        client.connect(str(place))
        return bool(client.recv(1))
    return False
