"""How much of a change to the rules would be noticed: `python -m tests.mutation [PART ...]`.

mutmut changes the code of a part in many small ways, one at a time, and runs the part's tests against each.
The parts and their tests stand in pyproject.toml. Each part is worked on in a copy of the tree below
build/mutation, where a second run starts from what the first one found; `mutmut browse` there shows what
survived.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

PLACE = Path("build") / "mutation"
GOAL = 85.0
SECTION = "[tool.mutmut]"
KILLED = ("killed", "timeout", "segfault", "suspicious")


def main() -> int:
    """Run the parts; returns 1 when one of them stays below the goal."""
    parts: dict[str, dict[str, list[str]]] = tomllib.loads(Path("pyproject.toml").read_text())["tool"][
        "tallygate"
    ]["mutation"]
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"out of {', '.join(parts)}; all without one")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="mutants at a time")
    given = parser.parse_args()
    unknown = set(given.part) - set(parts)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))} (parts: {', '.join(parts)})")
    scores = {name: _run(name, parts[name], given.at_once) for name in given.part or parts}
    print(f"{'part':<12} {'mutants':>8} {'noticed':>8} {'survived':>9} {'score':>7}")
    below = False
    for name, found in scores.items():
        noticed = sum(found[each] for each in KILLED)
        checked = noticed + found["survived"] + found["no_tests"]
        score = 100 * noticed / checked if checked else 0.0
        below |= score < GOAL
        print(f"{name:<12} {checked:>8} {noticed:>8} {checked - noticed:>9} {score:>6.1f}%")
    return 1 if below else 0


def _run(name: str, part: dict[str, list[str]], at_once: int) -> dict[str, Any]:
    """Run one part in its copy of the tree; returns mutmut's figures."""
    place = PLACE / name
    place.mkdir(parents=True, exist_ok=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for file in filter(None, tracked.split("\0")):
        if Path(file).exists():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file)
    project = place / "pyproject.toml"
    chosen = f"only_mutate = {part['mutate']}\npytest_add_cli_args_test_selection = {part['tests']}\n"
    project.write_text(project.read_text().replace(SECTION, f"{SECTION}\n{chosen}#"))
    # The tests have to import the mutated copy and not this tree.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run([*mutmut, "run", "--max-children", str(at_once)], cwd=place, env=environ, check=True)
    subprocess.run([*mutmut, "export-cicd-stats"], cwd=place, env=environ, check=True, capture_output=True)
    found: dict[str, Any] = json.loads((place / "mutants" / "mutmut-cicd-stats.json").read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
