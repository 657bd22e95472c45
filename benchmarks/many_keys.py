"""`python -m benchmarks.many_keys [KEYS]`: what it costs the gateway that there are a million keys.

Two gateways with a store each take turns on the same core: one knows a single key, the other all of them, put
into the store in the way in which the product brings records there. The first has calls of its key. The other
has the same calls of one of its keys; then of ten thousand, which a worker soon remembers; then of all at
random, of which hardly any is remembered. At the end what was answered is compared with what was counted.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import load, machine
from benchmarks.machine import Layout
from benchmarks.origin import Origin
from benchmarks.peers import Bench
from benchmarks.peers.tallygate import Tallygate
from benchmarks.report import Turn
from benchmarks.store import Store
from benchmarks.turns import QUIET, account_of, turn_of
from benchmarks.workloads import SMALL_BYTES, Request, Workload, request_of

KEYS, WORKING_SET = 1_000_000, 10_000
STARTS = 3
MIB = 2**20
GOAL_RATIO, GOAL_MIB, GOAL_START_S = 0.9, 200, 3.0
ONE = Workload("one key", "GET", SMALL_BYTES, 64)


def workloads(keys: int) -> list[Workload]:
    """Return the loads on the gateway that knows so many keys."""
    return [
        Workload("one of them", "GET", SMALL_BYTES, 64),
        Workload("working set", "GET", SMALL_BYTES, 64, keys=min(keys, WORKING_SET)),
        Workload("all keys", "GET", SMALL_BYTES, 64, keys=keys, random=True),
    ]


class Side:
    """A gateway that knows so many keys, with a store and an upstream of its own."""

    def __init__(self, keys: int, layout: Layout, folder: Path, stack: ExitStack) -> None:
        self._layout, self._folder = layout, folder
        folder.mkdir()
        self.store = stack.enter_context(Store(layout.rest, folder))
        self._origin = stack.enter_context(Origin(SMALL_BYTES, layout.rest, folder))
        bench = Bench(layout, self.store, self._origin.port, folder, keys)
        self.gateway = stack.enter_context(Tallygate(bench))
        self._counted = self._asked = 0
        self.turns: dict[str, list[Turn]] = {}
        self.most_mib = 0

    def begin(self) -> None:
        """Take the counts from here on."""
        self._counted, self._asked = self.gateway.counted(), self._origin.calls()
        self.remember_memory()

    def take(self, workload: Workload, seconds: float) -> None:
        """Measure a turn of this load."""
        turn = turn_of(self.gateway, workload, self._layout, self._folder, seconds)
        self.turns.setdefault(workload.name, []).append(turn)
        self.remember_memory()

    def remember_memory(self) -> None:
        """Look at how much memory the worker has now."""
        assert self.gateway.process is not None
        self.most_mib = max(self.most_mib, self.gateway.process.memory_bytes() // MIB)

    def differences(self, last: Workload) -> tuple[int, int, int]:
        """Return calls counted minus answered, counted minus those that reached the upstream, and failed."""
        reached = self._origin.calls_at_rest() - self._asked
        account = account_of(self.gateway, last, self._layout, self._counted, reached)
        answered, reached = account.differences
        return answered, reached, sum(turn.load.failed for each in self.turns.values() for turn in each)


def start_s(gateway: Tallygate, request: Request) -> float:
    """Start the worker anew, and return the seconds until it has answered a call."""
    assert gateway.process is not None
    gateway.process.stop()
    environment = gateway.configured()
    began = time.perf_counter()
    gateway.serve(environment, 0)
    method, target, headers = request.http_method, request.target, dict(request.headers)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200 and b'"ErrorCode":"Ok"' in body, body
    return time.perf_counter() - began


def measure(keys: int, rounds: int, seconds: float, folder: Path, stack: ExitStack) -> bool:
    """Print what was measured; returns whether every call was answered, and counted once."""
    layout = machine.layout()
    print(layout.sentence)
    began = time.perf_counter()
    _progress(f"putting {keys:,} keys into the store ...")
    alone, many = Side(1, layout, folder / "one", stack), Side(keys, layout, folder / "many", stack)
    used = many.store.client.info("memory")["used_memory"]
    _progress("")
    print(f"{keys:,} keys put in {time.perf_counter() - began:.0f} s; the store uses {used // MIB} MiB")
    loads = workloads(keys)
    starts = [start_s(many.gateway, request_of(loads[0], many.gateway.credential)) for _ in range(STARTS)]
    print(f"start to first answer: {median(starts):.2f} s{_met(median(starts) <= GOAL_START_S)}")
    alone.begin()
    many.begin()
    before_mib = many.most_mib
    turns = [(alone, ONE), *((many, workload) for workload in loads)]
    for number in range(rounds):
        first = number % len(turns)
        for side, workload in turns[first:] + turns[:first]:
            _progress(f"round {number + 1}/{rounds}, {workload.name} ...")
            side.take(workload, seconds)
    _progress("comparing the count ...")
    differences = [alone.differences(ONE), many.differences(loads[-1])]
    _progress("")
    for side, workload in turns:
        _tell(workload, side.turns[workload.name], alone.turns[ONE.name])
    most = many.most_mib
    print(f"memory of the worker: {before_mib} MiB before, {most} MiB at the most{_met(most < GOAL_MIB)}")
    answered, reached, failed = (sum(numbers) for numbers in zip(*differences, strict=True))
    print(f"counted minus answered {answered}, counted minus reached upstream {reached}")
    print(f"failed calls {failed}")
    return all(numbers == (0, 0, 0) for numbers in differences)


def _tell(workload: Workload, turns: list[Turn], of_one: list[Turn]) -> None:
    rate = median(turn.load.rate for turn in turns)
    busy = median(turn.busy for turn in turns)
    text = f"{workload.name:>12} ({workload.keys:,}): {rate:,.0f}/s, core used {busy:.0%}"
    if turns is not of_one:
        pairs = list(zip(turns, of_one, strict=True))
        ratio = median(turn.load.rate / other.load.rate for turn, other in pairs)
        by_cpu = median(other.cpu_s_per_thousand / turn.cpu_s_per_thousand for turn, other in pairs)
        text += f", {ratio:.2f} of one key alone{_met(ratio >= GOAL_RATIO)}, {by_cpu:.2f} per CPU second"
    noisy = max(turn.strangers for turn in turns)
    print(text + (f" (others used up to {noisy:.0%} of its core)" if noisy > QUIET else ""))


def _met(is_met: bool) -> str:
    return " (goal met)" if is_met else " (goal missed)"


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure on a store of its own; returns 1 when a call failed or the count is not exact."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.many_keys", description=__doc__)
    options.add_argument(
        "keys", type=int, nargs="?", default=KEYS, help=f"at most {KEYS:,}, which is the default"
    )
    options.add_argument("--rounds", type=int, default=3, help="turns of every load (3)")
    options.add_argument("--seconds", type=float, default=5.0, help="length of a turn (5)")
    given = options.parse_args()
    if not 1 <= given.keys <= KEYS:
        options.error(f"keys must be 1 to {KEYS:,}")
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-") as name, ExitStack() as stack:
        try:
            return 0 if measure(given.keys, given.rounds, given.seconds, Path(name), stack) else 1
        except (machine.StartError, load.LoadError) as problem:
            print(f"\n{problem}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
