"""The simulation behind the capacity plan keeps to what must hold of any server and its queue."""

from __future__ import annotations

import pytest

from benchmarks.capacity import MOST_USED, Costs, plan, simulate

COSTS = Costs(call_us=95, round_us=18, key_us=7, again_us=0.3, round_trip_us=200)


def test_a_shard_with_little_to_do_is_busy_for_one_script_a_call() -> None:
    """At 100 calls a second hardly two come together: each costs a round of its own, and waits for that."""
    shard = simulate(100, 8, COSTS)
    assert shard.busy == pytest.approx(100 * COSTS.round_us / 1e6, rel=0.05)
    assert shard.batch == pytest.approx(1, abs=0.05)
    assert shard.p50_ms == pytest.approx((COSTS.round_us + COSTS.round_trip_us) / 1e3, rel=0.01)


def test_a_shard_beyond_one_script_a_call_gathers_calls_in_rounds() -> None:
    """With more calls than single scripts would fit into a second, rounds grow and everything is counted."""
    shard = simulate(100_000, 8, COSTS)
    assert shard.busy <= 1
    assert shard.batch > 2


def test_plan_leaves_room_on_every_core() -> None:
    """Neither workers nor shards are planned to be busier than is stated."""
    workers, shards, shard = plan(100_000, COSTS)
    assert workers * MOST_USED >= 100_000 * COSTS.call_us / 1e6
    assert shard.busy <= MOST_USED
    assert shards > 1
