"""What a second worker adds: `python -m benchmarks.two_workers`.

Load, upstream and Redis need cores too, so on two cores two workers cannot be driven to their limit. What can
be measured there is what a call costs: with one worker at a steady rate, then with two of them at that rate
each, on a core each, on the same key in the same Redis. If a call costs each of two workers what it costs one
alone, two of them on cores of their own do twice as much, until Redis is full; its cost a call tells when.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks import load, machine
from benchmarks.machine import Layout, StartError
from benchmarks.origin import Origin
from benchmarks.peers import Bench
from benchmarks.peers.tallygate import Tallygate
from benchmarks.report import aligned
from benchmarks.store import Store
from benchmarks.workloads import WORKLOADS, request_of

GOAL = 1.7
WARM_UP_CALLS = 2_000
WORKLOAD = next(each for each in WORKLOADS if each.name == "get-400")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds for 1,000 calls, of the workers and of Redis, and the workers' share of their cores."""

    workers: float
    redis: float
    busy: float


def main() -> int:
    """Measure, and print how the costs compare; returns 1 when a call failed or was miscounted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_workers", description=__doc__)
    parser.add_argument("--rate", type=float, default=2_000, help="calls a second for each worker (2000)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a turn (8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of one worker, and of two (3)")
    given = parser.parse_args()
    if not sys.platform.startswith("linux"):
        print("The benchmark pins processes to cores and reads /proc, so it runs on Linux only.")
        return 1
    try:
        return _run(given.rate, given.seconds, given.rounds)
    except (StartError, load.LoadError) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1


def _run(rate: float, seconds: float, rounds: int) -> int:
    layout = machine.layout()
    everywhere = layout.proxy | layout.rest
    print(f"{rate:,.0f} calls a second for each worker; load, upstream and Redis run on the same cores.")
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-") as folder, ExitStack() as stack:
        store = stack.enter_context(Store(everywhere, Path(folder)))
        origin = stack.enter_context(Origin(WORKLOAD.answer_bytes, everywhere, Path(folder)))
        first = Tallygate(Bench(layout, store, origin.port, Path(folder)))
        stack.enter_context(first)
        second = stack.enter_context(Beside(first, Layout(layout.rest, layout.proxy)))
        before, answered, failed = first.counted(), 0, 0
        costs: dict[int, list[Cost]] = {1: [], 2: []}
        for number in range(rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                asked = [first, second][:workers]
                for each in asked:
                    answered += _calls(each, everywhere, calls=WARM_UP_CALLS).answered
                cost, loads = _turn(asked, store, everywhere, seconds, rate)
                costs[workers].append(cost)
                answered += sum(each.answered for each in loads)
                failed += sum(each.failed for each in loads)
        difference = first.counted() - before - answered
    _tell(costs)
    print(f"answered {answered:,}, failed {failed:,}, counted less answered {difference}")
    return int(bool(failed or difference))


class Beside(Tallygate):
    """A second worker of the same gateway, on another core and a port of its own."""

    def __init__(self, first: Tallygate, cores: Layout) -> None:
        super().__init__(replace(first.bench, layout=cores))
        self.credential = first.credential

    def start(self) -> None:
        """Serve out of the first one's data directory, which has its pepper."""
        self.serve(self.configured(), 1)


def _calls(worker: Tallygate, cores: frozenset[int], **how: float) -> load.Load:
    return load.drive(worker.port, request_of(WORKLOAD, worker.credential), WORKLOAD, cores, **how)  # type: ignore[arg-type]


def _turn(
    workers: list[Tallygate], store: Store, cores: frozenset[int], seconds: float, rate: float
) -> tuple[Cost, list[load.Load]]:
    processes = [each.process for each in workers if each.process is not None]
    used, by_redis = sum(each.cpu_s() for each in processes), store.cpu_s()
    with ThreadPoolExecutor(len(workers)) as pool:
        loads = list(pool.map(lambda each: _calls(each, cores, seconds=seconds, rate=rate), workers))
    used, by_redis = sum(each.cpu_s() for each in processes) - used, store.cpu_s() - by_redis
    thousands = sum(each.answered for each in loads) / 1000
    return Cost(used / thousands, by_redis / thousands, used / seconds / len(workers)), loads


def _tell(costs: dict[int, list[Cost]]) -> None:
    rows = [["", "workers' CPU s / 1,000", "of a core each", "Redis' CPU s / 1,000"]]
    for workers, turns in costs.items():
        figures = [median(turn.workers for turn in turns), median(turn.busy for turn in turns)]
        redis = median(turn.redis for turn in turns)
        title = "one worker" if workers == 1 else "two workers"
        rows.append([title, f"{figures[0]:.4f}", f"{figures[1]:.0%}", f"{redis:.4f}"])
    print(aligned(rows))
    ratios = [2 * one.workers / two.workers for one, two in zip(costs[1], costs[2], strict=True)]
    redis = median(turn.redis for turn in costs[2])
    told = "met" if median(ratios) >= GOAL else "MISSED"
    print(
        f"two workers on cores of their own do {median(ratios):.2f} times what one does"
        f" ({', '.join(f'{each:.2f}' for each in ratios)}; goal {GOAL}: {told});"
        f" a Redis with a core of its own carries {1000 / redis:,.0f} calls a second"
    )


if __name__ == "__main__":
    sys.exit(main())
