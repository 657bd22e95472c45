"""A short run over every target, with inputs that are mutated blindly; `make fuzz` runs them for long."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target

SEED = int(os.environ.get("TALLYGATE_SEED", "20261121"))
RUNS = {"config": 60}
HANG_S = 10.0  # for one input; the slowest take a few hundredths of a second


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_inputs_break_nothing(target: Target) -> None:
    """What the targets start from, and what once broke something, is read as it has to be."""
    for data in target.inputs():
        target.check(data)


@pytest.mark.deeper
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_mutated_inputs_break_nothing(target: Target) -> None:
    """Changed inputs are read or refused, agree with other readers, and take no time to speak of."""
    chance = random.Random(f"{SEED} {target.name}")
    inputs = target.inputs()
    times = 100 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 1
    for _ in range(RUNS.get(target.name, 1_000) * times):
        data = mutated(chance, inputs)
        begun = time.process_time()
        try:
            target.check(data)
        except Exception as error:
            raise AssertionError(f"{target.name} breaks on {data!r}") from error
        assert time.process_time() - begun < HANG_S, f"{target.name} is slow on {data!r}"
