"""The proof that tests run on the compiled modules."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hatch_build import COMPILED
from tests import compiled


def test_plain_modules_are_refused() -> None:
    """On plain modules nothing is collected, and each of them is named."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.compiled", "-p", "no:xdist", "--collect-only"]
    done = subprocess.run(
        [*command, "tests/policies/test_keys.py"],
        cwd=compiled.ROOT,
        env=environ | {"PYTHONPATH": str(compiled.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.count("is plain: ") == len(COMPILED)
    assert f"gateway.dialects is plain: {Path('gateway/dialects/__init__.py').absolute()}" in done.stderr


@pytest.mark.parametrize("source", COMPILED)
def test_no_compiled_coroutine_waits_while_it_ends(source: str) -> None:
    """mypyc 2.4 raises the error of an earlier call again where `finally` awaits, though nothing failed."""
    tree = ast.parse((compiled.ROOT / source).read_text())
    ends = [statement for each in ast.walk(tree) if isinstance(each, ast.Try) for statement in each.finalbody]
    waits = ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Yield
    assert not [each for end in ends for each in ast.walk(end) if isinstance(each, waits)]
