"""Mutants of Python code, made and tried by mutmut in a copy of the tree.

There a second run starts from what the first one found, and `mutmut browse` shows what survived.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.mutation.found import Found
from tests.mutation.patience import SECONDS

SECTION = "[tool.mutmut]"
KILLED = ("killed", "segfault", "suspicious")


def run(mutate: list[str], tests: list[str], place: Path, at_once: int, patience_s: int) -> Found:
    """Try all mutants of some files by some tests, in a copy of the tree in `place`."""
    place.mkdir(parents=True, exist_ok=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for file in filter(None, tracked.split("\0")):
        if Path(file).exists():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file)
    project = place / "pyproject.toml"
    chosen = f"only_mutate = {mutate}\npytest_add_cli_args_test_selection = {tests}\n"
    project.write_text(project.read_text().replace(SECTION, f"{SECTION}\n{chosen}#"))
    # The tests have to import the mutated copy and not this tree.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ[SECONDS] = str(patience_s)
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run([*mutmut, "run", "--max-children", str(at_once)], cwd=place, env=environ, check=True)
    subprocess.run([*mutmut, "export-cicd-stats"], cwd=place, env=environ, check=True, capture_output=True)
    found: dict[str, int] = json.loads((place / "mutants" / "mutmut-cicd-stats.json").read_text())
    failed = sum(found[each] for each in KILLED)
    return Found(failed + found["timeout"] + found["survived"] + found["no_tests"], failed, found["timeout"])
