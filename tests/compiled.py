"""A plugin of pytest, `-p tests.compiled`: tests run on the compiled modules or not at all.

The plain modules lie beside the tests, so with one entry of the path in the wrong place the tests would pass
on those, and nobody would notice.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from hatch_build import COMPILED

ROOT = Path(__file__).parent.parent


def misfits() -> list[str]:
    """Return what is wrong with modules that are to be compiled: plain ones, and ones of other sources."""
    found = []
    for source in COMPILED:
        name = source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        place = import_module(name).__file__
        assert place is not None, name
        if not place.endswith(tuple(EXTENSION_SUFFIXES)):
            found.append(f"{name} is plain: {place}")
        elif Path(place).with_name(Path(source).name).read_bytes() != (ROOT / source).read_bytes():
            found.append(f"{name} was compiled from another source: {place}")
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run where this process, or one that a test starts, would not have the compiled modules."""
    wrong = misfits()
    if not wrong and not hasattr(config, "workerinput"):
        command = [sys.executable, "-m", "tests.compiled"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        wrong = [f"in a process of its own: {told.stderr}"] if told.returncode else []
    if wrong:
        raise pytest.UsageError("\n".join(wrong))


def pytest_report_header() -> str:
    """Say what the tests run on."""
    return f"compiled: {len(COMPILED)} modules, all of them from the sources as they are"


if __name__ == "__main__":
    sys.exit("\n".join(misfits()) or 0)  # a text is written out, and means failure
