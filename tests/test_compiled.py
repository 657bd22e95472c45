"""The proof that tests run on the compiled modules."""

from __future__ import annotations

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
