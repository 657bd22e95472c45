"""`python -m benchmarks.many_keys [KEYS]`: what it costs the gateway that there are a million keys.

All keys are put into the store in the way in which the product brings records there. Then loads take turns on
one worker: on one key, on ten thousand of all that a worker soon remembers, and on all of them at random, of
which hardly any is remembered. At the end what was answered is compared with what was counted.
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


def workloads(keys: int) -> list[Workload]:
    """Return the loads that take turns, that on one key first."""
    return [
        Workload("one key", "GET", SMALL_BYTES, 64),
        Workload("working set", "GET", SMALL_BYTES, 64, keys=min(keys, WORKING_SET)),
        Workload("all keys", "GET", SMALL_BYTES, 64, keys=keys, random=True),
    ]


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
    store = stack.enter_context(Store(layout.rest, folder))
    origin = stack.enter_context(Origin(SMALL_BYTES, layout.rest, folder))
    began = time.perf_counter()
    _progress(f"putting {keys:,} keys into the store ...")
    gateway = stack.enter_context(Tallygate(Bench(layout, store, origin.port, folder, keys)))
    used = store.client.info("memory")["used_memory"]
    _progress("")
    print(f"{keys:,} keys put in {time.perf_counter() - began:.0f} s; the store uses {used // MIB} MiB")
    one, *_ = loads = workloads(keys)
    starts = [start_s(gateway, request_of(one, gateway.credential)) for _ in range(STARTS)]
    print(f"start to first answer: {median(starts):.2f} s{_met(median(starts) <= GOAL_START_S)}")
    counted, asked = gateway.counted(), origin.calls()
    turns: dict[str, list[Turn]] = {workload.name: [] for workload in loads}
    memory = [_memory(gateway)]
    for number in range(rounds):
        first = number % len(loads)
        for workload in loads[first:] + loads[:first]:
            _progress(f"round {number + 1}/{rounds}, {workload.name} ...")
            turns[workload.name].append(turn_of(gateway, workload, layout, folder, seconds))
            memory.append(_memory(gateway))
    _progress("comparing the count ...")
    account = account_of(gateway, loads[-1], layout, counted, origin.calls_at_rest() - asked)
    _progress("")
    for workload in loads:
        _tell(workload, turns[workload.name], turns[one.name])
    most = max(memory)
    print(f"memory of the worker: {memory[0]} MiB before, {most} MiB at the most{_met(most < GOAL_MIB)}")
    answered, reached = account.differences
    print(f"counted minus answered {answered}, counted minus reached upstream {reached}")
    failed = sum(turn.load.failed for each in turns.values() for turn in each)
    print(f"failed calls {failed}")
    return (answered, reached, failed) == (0, 0, 0)


def _tell(workload: Workload, turns: list[Turn], of_one: list[Turn]) -> None:
    rate = median(turn.load.rate for turn in turns)
    busy = median(turn.busy for turn in turns)
    text = f"{workload.name:>12} ({workload.keys:,}): {rate:,.0f}/s, core used {busy:.0%}"
    if turns is not of_one:
        pairs = list(zip(turns, of_one, strict=True))
        ratio = median(turn.load.rate / other.load.rate for turn, other in pairs)
        by_cpu = median(other.cpu_s_per_thousand / turn.cpu_s_per_thousand for turn, other in pairs)
        text += f", {ratio:.2f} of one key{_met(ratio >= GOAL_RATIO)}, {by_cpu:.2f} per CPU second"
    noisy = max(turn.strangers for turn in turns)
    print(text + (f" (others used up to {noisy:.0%} of its core)" if noisy > QUIET else ""))


def _memory(gateway: Tallygate) -> int:
    assert gateway.process is not None
    return gateway.process.memory_bytes() // MIB


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
