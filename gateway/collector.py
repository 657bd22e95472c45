"""Python's collector of cycles, set for processes that make many objects, hardly any of them in a cycle."""

from __future__ import annotations

import gc

# Collections between which a process under load makes far more than the default 700 objects; most die young.
THRESHOLDS = (50_000, 20, 50)


def settle() -> None:
    """Leave alone what the start has made, and look seldom from now on.

    A roll-up spends a third of its time on collections at the defaults (`benchmarks/rollup_cost.py`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
