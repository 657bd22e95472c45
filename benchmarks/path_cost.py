"""`python -m benchmarks.path_cost`: where the microseconds of a call go.

First the worker's Python is run without sockets: requests are handed to fronts, counts are granted at once,
answers are handed to the upstream's connections. The best of several rounds is what a call costs, and a
sampling clock says in which stage. Then a whole worker is put under load, and what a call costs it is told by
the system's own books, as user and system time.

All figures are CPU time, so other programs lengthen the run more than the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import secrets
import signal
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from statistics import median
from types import FrameType, FunctionType
from typing import Any, cast

import uvloop

from benchmarks import load, machine
from benchmarks.origin import Origin
from benchmarks.peers import Bench
from benchmarks.peers.tallygate import CompiledTallygate, Tallygate
from benchmarks.store import Store
from benchmarks.workloads import KEY_MARK, VARIANTS, WORKLOADS, Workload, answer, numbered, request_of
from gateway import collector, config
from gateway.proxy.access_log import AccessLogWriter
from gateway.proxy.entry import Entry
from gateway.proxy.front import Front
from gateway.proxy.records import Records
from gateway.proxy.service import Proxy
from gateway.proxy.upstream import UpstreamConnection
from metering.breaker import Breaker
from metering.counters import Outcome, Take, Taken
from metering.open_calls import OpenCalls
from policies import keys
from policies.record import KeyRecord

ROUNDS = 40
LIVE_ROUNDS = 5
TURNS = 30  # in a round, one call on every connection each
SAMPLE_S = 0.001
# With more, what the requests themselves take would push everything else out of the caches.
REMEMBERED_KEYS = 500

# Which stage the work of a function or of a whole module belongs to; the innermost that is named counts.
FUNCTIONS = {
    ("admission", "_look_up"): "ruling",
    ("admission", "_digest"): "ruling",
    ("admission", "_decide"): "ruling",
    ("admission", "_on_taken"): "ruling",
    ("admission", "_limits"): "ruling",
    ("heads", "limit_fields"): "ruling",
    ("exchange", "on_connected"): "head to the upstream",
    ("exchange", "on_answer_head"): "answer",
    ("exchange", "on_answer_data"): "answer",
    ("exchange", "on_answer_end"): "answer",
    ("exchange", "_flush"): "answer",
    ("exchange", "_settle"): "settling",
    ("exchange", "_outcome_is_settled"): "settling",
    ("exchange", "_close"): "log and figures",
    ("service", "finished"): "log and figures",
    ("service", "route"): "identification",
}
MODULES = {
    "request_reader": "head of the request",
    "incoming": "head of the request",
    "requests": "head of the request",
    "identify": "identification",
    "scan": "identification",
    "parameters": "identification",
    "readings": "identification",
    "request_plan": "identification",
    "xml_values": "identification",
    "keys": "ruling",
    "records": "ruling",
    "entry": "ruling",
    "today": "ruling",
    "methods": "ruling",
    "decision": "ruling",
    "key_out": "head to the upstream",
    "heads": "head to the upstream",
    "headers": "head to the upstream",
    "upstream_pool": "head to the upstream",
    "upstream": "answer",
    "answers": "answer",
    "known_answers": "answer",
    "outcome": "answer",
    "otapi": "answer",
    "dialects": "answer",
    "coding": "answer",
    "tally": "log and figures",
    "access_log": "log and figures",
    "front": "the call itself",
    "exchange": "the call itself",
    "admission": "the call itself",
    "service": "the call itself",
}
STAGES = tuple(dict.fromkeys((*MODULES.values(), "settling")))


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Any] = []

    def write(self, data: Any) -> None:
        self.written.append(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else default

    def is_closing(self) -> bool:
        return False


class Granting:
    """Counters that grant all that was asked for when they are told to."""

    def __init__(self) -> None:
        self.breaker = Breaker(time.monotonic)
        self._waiting: list[tuple[str, Any]] = []

    def take(self, take: Take, now: float, done: Any) -> None:
        self._waiting.append((take.key_id, done))

    def grant(self) -> None:
        waiting, self._waiting = self._waiting, []
        granted: dict[str, Taken] = {}
        for key_id, done in waiting:
            taken = granted.get(key_id)
            if taken is None:
                taken = granted[key_id] = Taken(Outcome.GRANTED, 100)
            done(taken)


class MemoryPath:
    """A data path whose ends are in memory."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        environ = {
            "TALLYGATE_DATA_DIR": str(folder),
            "TALLYGATE_REDIS_URL": "redis://unused",
            "TALLYGATE_DEMO_URL": "http://127.0.0.1:9",
        }
        settings = config.load(None, environ, keep_pepper=False)
        self._keys = min(workload.keys, REMEMBERED_KEYS)
        credential = (
            keys.issue(secrets.token_bytes(keys.ENTROPY_BYTES)) if workload.keys == 1 else f"bench-{KEY_MARK}"
        )
        self.counters = Granting()
        counters = cast(Any, self.counters)
        records = Records(
            cast(Any, None),
            contract=settings.contract,
            capacity=self._keys,
            negative_s=1,
            timeout_s=1,
            clock=time.time,
            breaker=self.counters.breaker,
            doubt=lambda since: None,
        )
        for number in range(self._keys):
            digest = keys.digest(numbered(credential, number, self._keys), settings.security.peppers[0][1])
            record = KeyRecord(f"key_{number:016x}", "acc_0", "K1", 1, time.time(), {digest: None})
            records._entries[digest] = Entry(digest, record, settings.contract, time.time())
        proxy = Proxy(
            settings,
            loop=uvloop.new_event_loop(),
            counters=counters,
            open_calls=OpenCalls(counters, folder, allowance=1, journal_max_bytes=1, deadline_s=1),
            records=records,
            unseal=str,
            access_log=AccessLogWriter(io.StringIO(), time.time, 0),
        )
        pool = next(iter(proxy._pools.values()))
        self.fronts, self.upstreams = [], []
        self._wires: list[Wire] = []
        for _ in range(workload.connections):
            front, upstream = Front(proxy), UpstreamConnection(pool)
            front.connection_made(self._wire())
            upstream.connection_made(self._wire())
            pool._open.add(upstream)
            pool.release(upstream)
            self.fronts.append(front)
            self.upstreams.append(upstream)
        text = load.wire(request_of(workload, credential), 8080)
        self._requests = cycle([numbered(text, number, self._keys).encode() for number in range(VARIANTS)])
        body = answer(workload.answer_bytes).encode()
        self._answer = (
            b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 20:17:56 GMT\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
            b"Cache-Control: private\r\n\r\n%b" % (len(body), body)
        )

    def _wire(self) -> Wire:
        wire = Wire()
        self._wires.append(wire)
        return wire

    def turn(self) -> None:
        """Make one call on every connection."""
        for front in self.fronts:
            front.data_received(next(self._requests))
        self.counters.grant()
        for upstream in self.upstreams:
            upstream.data_received(self._answer)

    def sent(self) -> int:
        """Return how many writes there were since the last time."""
        written = sum(len(wire.written) for wire in self._wires)
        for wire in self._wires:
            wire.written.clear()
        return written


class Sampler:
    """Looks at every tick of the process's CPU clock in which stage it is."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, number: int, frame: FrameType | None) -> None:
        while frame is not None:
            module = frame.f_globals.get("__name__", "").rpartition(".")[2]
            stage = FUNCTIONS.get((module, frame.f_code.co_name)) or MODULES.get(module)
            if stage is not None:
                self.found[stage] += 1
                return
            frame = frame.f_back


def without_sockets(workload: Workload, rounds: int) -> tuple[float, dict[str, float]]:
    """Return the microseconds of a call in the best round, and how they are shared out among the stages."""
    with tempfile.TemporaryDirectory() as folder:
        path = MemoryPath(workload, Path(folder))
        path.turn()
        assert path.sent() == 2 * workload.connections, "a call was not answered"
        collector.settle()
        best = float("inf")
        with Sampler() as sampler:
            for _ in range(rounds):
                began = time.process_time()
                for _ in range(TURNS):
                    path.turn()
                    path.sent()
                best = min(best, time.process_time() - began)
    cost_us = best / TURNS / workload.connections * 1e6
    looks = sum(sampler.found.values())
    if not isinstance(Front.data_received, FunctionType):  # compiled functions have no frames to look at
        return cost_us, {}
    return cost_us, {stage: sampler.found[stage] / looks * cost_us for stage in STAGES}


def live(workload: Workload, kind: type[Tallygate], rounds: int, seconds: float) -> tuple[float, float]:
    """Return the microseconds of user and of system time that a call costs a worker; medians of rounds."""
    layout = machine.layout()
    user, system = [], []
    with (
        tempfile.TemporaryDirectory() as name,
        Store(layout.rest, Path(name)) as store,
        Origin(workload.answer_bytes, layout.rest, Path(name)) as origin,
        kind(Bench(layout, store, origin.port, Path(name))) as peer,
    ):
        assert peer.process is not None
        request = request_of(workload, peer.credential)
        load.drive(peer.port, request, workload, layout.rest, calls=2000)
        for _ in range(rounds):
            before = peer.process.cpu_parts_s()
            answered = load.run(peer.port, request, workload, seconds, layout.rest, Path(name)).answered
            after = peer.process.cpu_parts_s()
            user.append((after[0] - before[0]) / answered * 1e6)
            system.append((after[1] - before[1]) / answered * 1e6)
    return median(user), median(system)


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path_cost", description=__doc__)
    parser.add_argument("--workload", choices=[each.name for each in WORKLOADS], default="get-400")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=3, help="of each round of the live worker")
    parser.add_argument("--no-live", action="store_true", help="leave the live worker out")
    parser.add_argument("--compiled", action="store_true", help="take the live worker from `make compiled`")
    given = parser.parse_args()
    workload = next(each for each in WORKLOADS if each.name == given.workload)
    os.sched_setaffinity(0, machine.layout().proxy)
    cost_us, stages = without_sockets(workload, given.rounds)
    os.sched_setaffinity(0, machine.layout().proxy | machine.layout().rest)
    print(f"{workload.title}\n\nwithout sockets {cost_us:14.1f} us a call")
    for stage, share_us in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"  {stage:<22} {share_us:5.1f}")
    if not given.no_live:
        kind = CompiledTallygate if given.compiled else Tallygate
        user_us, system_us = live(workload, kind, LIVE_ROUNDS, given.seconds)
        print(f"\na live worker {user_us + system_us:16.1f} us a call")
        print(f"  user                   {user_us:5.1f}\n  system                 {system_us:5.1f}")


if __name__ == "__main__":
    main()
