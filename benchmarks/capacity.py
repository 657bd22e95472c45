"""`python -m benchmarks.capacity`: how many workers and cluster shards a load needs, by simulation.

Simulated is one shard: a server that runs one script after another, and a lane of every worker that has one
round under way at a time. Calls come at random moments (Poisson), their keys at random with few of them busy
(Zipf); what arrives during a round forms the next. Costs are those that `benchmarks.count_cost` and
`make bench` measure, given as options; the defaults are the figures of `docs/capacity.md`.
"""

from __future__ import annotations

import argparse
import heapq
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

LOADS = (1_000, 10_000, 100_000, 1_000_000)  # calls a second
MOST_USED = 0.6  # of a core, so that a worker or shard that is lost leaves enough
SIMULATED_CALLS = 60_000
KEYS_PER_SHARD = 20_000
MOST_SHARDS = 256  # the names in Redis know no more


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured, in microseconds of one core; `round_trip_us` is the network's and the kernel's."""

    call_us: float  # a worker's, for a whole call
    round_us: float  # the store's, for a script with one key and one call
    key_us: float  # for each further key of it
    again_us: float  # for each further call on a key that is in it already
    round_trip_us: float


@dataclass(frozen=True, slots=True)
class Shard:
    """What the simulation of one shard showed."""

    busy: float  # share of its core
    batch: float  # calls in a round, on average
    p50_ms: float  # from a call's arrival until it is counted
    p99_ms: float


def simulate(rate: float, lanes: int, costs: Costs, seed: int = 1) -> Shard:
    """Run one shard under `rate` calls a second that come through so many lanes."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / (rank + 1) for rank in range(KEYS_PER_SHARD)))
    queues: list[list[tuple[float, int]]] = [[] for _ in range(lanes)]
    under_way = [False] * lanes
    free_at = busy_us = now_us = 0.0
    rounds = done = 0
    waits: list[float] = []
    # What happens next: (when, order, lane or -1 for a call that arrives, the calls of the round that ends).
    events: list[tuple[float, int, int, list[tuple[float, int]]]] = [(0.0, 0, -1, [])]
    order = arrived = 0
    while events:
        now_us, _, lane, ended = heapq.heappop(events)
        if lane < 0:
            lane = chance.randrange(lanes)
            queues[lane].append((now_us, bisect_left(weights, chance.random() * weights[-1])))
            arrived += 1
            if arrived < SIMULATED_CALLS:
                order += 1
                heapq.heappush(events, (now_us + chance.expovariate(rate) * 1e6, order, -1, []))
        else:
            under_way[lane] = False
            waits += [now_us - came for came, _ in ended]
            done += len(ended)
        if queues[lane] and not under_way[lane]:
            calls, queues[lane] = queues[lane], []
            keys = len({key for _, key in calls})
            script_us = costs.round_us + (keys - 1) * costs.key_us + (len(calls) - keys) * costs.again_us
            # Rounds reach the server after half a round trip, and are served in the order of their arrival.
            free_at = max(free_at, now_us + costs.round_trip_us / 2) + script_us
            busy_us += script_us
            under_way[lane] = True
            rounds, order = rounds + 1, order + 1
            heapq.heappush(events, (free_at + costs.round_trip_us / 2, order, lane, calls))
    waits.sort()
    return Shard(
        busy_us / now_us, done / rounds, waits[len(waits) // 2] / 1e3, waits[len(waits) * 99 // 100] / 1e3
    )


def plan(rate: float, costs: Costs) -> tuple[int, int, Shard]:
    """Return the least workers and shards (powers of two) that keep every core below `MOST_USED`."""
    workers = max(1, -int(-rate * costs.call_us / 1e6 // MOST_USED))
    shards = 1
    while True:
        shard = simulate(rate / shards, workers, costs)
        if shard.busy <= MOST_USED or shards == MOST_SHARDS:
            return workers, shards, shard
        shards *= 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each load."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    for name, default_us, what in (
        ("call", 63, "a worker's time for a call"),
        ("round", 23, "the store's time for a script of one call"),
        ("key", 5.6, "for each further key of a script"),
        ("again", 0.05, "for each further call on a key of it"),
        ("round-trip", 200, "the network's and the kernel's time for a round"),
    ):
        told = f"{what}, in microseconds ({default_us})"
        options.add_argument(f"--{name}-us", type=float, default=default_us, help=told)
    costs = Costs(**vars(options.parse_args(arguments)))
    print("   calls/s  workers  shards  shard busy  calls a round  p50 ms  p99 ms")
    for rate in LOADS:
        workers, shards, shard = plan(rate, costs)
        print(
            f"{rate:>10,} {workers:>8} {shards:>7} {shard.busy:>11.0%} {shard.batch:>14.1f} "
            f"{shard.p50_ms:>7.2f} {shard.p99_ms:>7.2f}"
        )


if __name__ == "__main__":
    main()
