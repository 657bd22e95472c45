"""The number from which a run's chances follow."""

from __future__ import annotations

import os
import secrets

VARIABLE = "TALLYGATE_SEED"


def seed_of_run() -> int:
    """Return the seed that the environment asks for, or any; whoever uses it prints it."""
    return int(os.environ.get(VARIABLE) or secrets.randbelow(1_000_000))
