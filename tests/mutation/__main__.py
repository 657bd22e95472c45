"""How much of a change to the rules would be noticed: `python -m tests.mutation [PART ...]`.

The code of a part is changed in many small ways, one at a time, and the part's tests are run against each: in
Python by mutmut, in the Lua scripts by `tests/mutation/scripts.py`. The parts and their tests stand in
pyproject.toml. Each part has a directory below build/mutation, where a second run starts from what the first
one found.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.mutation import python, scripts
from tests.mutation.found import Found

PLACE = Path("build") / "mutation"
GOAL = 85.0


def main() -> int:
    """Run the parts; returns 1 when one of them stays below the goal."""
    parts: dict[str, dict[str, Any]] = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["tallygate"][
        "mutation"
    ]
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"out of {', '.join(parts)}; all without one")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--patience", type=int, default=60, metavar="S", help="seconds for one test (60)")
    given = parser.parse_args()
    unknown = set(given.part) - set(parts)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))} (parts: {', '.join(parts)})")

    def run(name: str) -> Found:
        if "mutate" not in parts[name]:
            return scripts.run(parts[name]["tests"], PLACE / name, given.at_once, given.patience)
        mutate, tests = parts[name]["mutate"], parts[name]["tests"]
        return python.run(mutate, tests, PLACE / name, given.at_once, given.patience)

    scores = {name: run(name) for name in given.part or parts}
    print(f"{'part':<12} {'mutants':>8} {'noticed':>8} {'by time':>8} {'survived':>9} {'score':>7}")
    for name, found in scores.items():
        print(
            f"{name:<12} {found.mutants:>8} {found.noticed:>8} {found.timed_out:>8}"
            f" {found.mutants - found.noticed:>9} {found.score:>6.1f}%"
        )
    return 1 if any(found.score < GOAL for found in scores.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
