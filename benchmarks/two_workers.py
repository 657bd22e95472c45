"""What a second worker adds: `python -m benchmarks.two_workers`.

Load, upstream and Redis need cores too, so on two cores two workers cannot be driven to their limit at once.
What can be measured there is whether one makes calls dearer for the other. The first has a core of its own
and is driven as far as the load comes, alone and while the second, on the core of all the rest, counts calls
of the same key in the same Redis. If a call costs the first the same, two of them on cores of their own do
twice as much, until Redis is full; its cost a call tells when. The second takes some of the load's core, so
that the first is less busy beside it: its calls come in smaller rounds, and the ratio is rather too low.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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
from benchmarks.turns import settled, turn_of
from benchmarks.workloads import WORKLOADS, request_of

GOAL = 1.7
WORKLOAD = next(each for each in WORKLOADS if each.name == "get-400")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds for 1,000 calls, of the first worker and of Redis, and the worker's share of its core."""

    worker: float
    redis: float
    busy: float


def main() -> int:
    """Measure, and print how the costs compare; returns 1 when a call failed or was miscounted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_workers", description=__doc__)
    parser.add_argument("--rate", type=float, default=2_000, help="calls/s of the second worker (2000)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a turn (8)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of one worker, and of two (5)")
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
    print(f"{layout.sentence} So does the second worker, at {rate:,.0f} calls/s.")
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        store = stack.enter_context(Store(layout.rest, folder))
        origin = stack.enter_context(Origin(WORKLOAD.answer_bytes, layout.rest, folder))
        first = stack.enter_context(Tallygate(Bench(layout, store, origin.port, folder)))
        second = stack.enter_context(Beside(first, Layout(layout.rest, layout.proxy)))
        counted, asked = first.counted() or 0, origin.calls()
        costs: dict[int, list[Cost]] = {1: [], 2: []}
        failed = 0
        for number in range(rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                by_redis, before = store.cpu_s(), origin.calls()
                if workers == 1:
                    turn = turn_of(first, WORKLOAD, layout, folder, seconds)
                else:
                    request = request_of(WORKLOAD, second.credential)
                    with load.driven(second.port, request, WORKLOAD, layout.rest, folder, rate) as end:
                        turn = turn_of(first, WORKLOAD, layout, folder, seconds)
                        failed += end().failed
                failed += turn.load.failed
                thousands = (origin.calls_at_rest() - before) / 1000
                costs[workers].append(
                    Cost(turn.cpu_s_per_thousand, (store.cpu_s() - by_redis) / thousands, turn.busy)
                )
        reached = origin.calls_at_rest() - asked
        settled(first, counted + reached)
        difference = (first.counted() or 0) - counted - reached
    _tell(costs)
    print(f"reached the upstream {reached:,}, failed {failed:,}, counted less reached {difference}")
    return int(bool(failed or difference))


class Beside(Tallygate):
    """A second worker of the same gateway, on another core and a port of its own."""

    def __init__(self, first: Tallygate, cores: Layout) -> None:
        super().__init__(replace(first.bench, layout=cores))
        self.credential = first.credential

    def start(self) -> None:
        """Serve out of the first one's data directory, which has its pepper."""
        self.serve(self.configured(), 1)


def _tell(costs: dict[int, list[Cost]]) -> None:
    rows = [["", "its CPU s / 1,000", "of its core", "Redis' CPU s / 1,000"]]
    for workers, turns in costs.items():
        figures = [median(turn.worker for turn in turns), median(turn.busy for turn in turns)]
        redis = median(turn.redis for turn in turns)
        title = "the first worker alone" if workers == 1 else "beside the second"
        rows.append([title, f"{figures[0]:.4f}", f"{figures[1]:.0%}", f"{redis:.4f}"])
    print(aligned(rows))
    ratios = [2 * one.worker / two.worker for one, two in zip(costs[1], costs[2], strict=True)]
    redis = median(turn.redis for turn in costs[2])
    told = "met" if median(ratios) >= GOAL else "MISSED"
    print(
        f"two workers on cores of their own do {median(ratios):.2f} times what one does"
        f" ({', '.join(f'{each:.2f}' for each in ratios)}; goal {GOAL}: {told});"
        f" a Redis with a core of its own carries {1000 / redis:,.0f} calls a second"
    )


if __name__ == "__main__":
    sys.exit(main())
