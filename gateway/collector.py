"""Python's collector of cycles, set for processes that make many objects, hardly any of them in a cycle."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

# Collections between which a process under load makes far more than the default 700 objects; most die young.
THRESHOLDS = (50_000, 20, 50)


def settle() -> None:
    """Leave alone what the start has made, and look seldom from now on.

    A roll-up spends a third of its time on collections at the defaults (`benchmarks/rollup_cost.py`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


@contextlib.contextmanager
def seldom() -> Iterator[None]:
    """Look seldom while a piece of work lasts that makes many objects."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
