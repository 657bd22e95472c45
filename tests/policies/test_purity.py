from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import policies

SOURCES = sorted(Path(policies.__file__).parent.glob("**/*.py"))

# What the contract may be made of: types, texts, numbers, the calendar. Add a module only after making sure
# that what is used of it depends on its arguments alone.
PERMITTED = {
    "__future__",
    "calendar",
    "collections.abc",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "re",
    "types",
    "typing",
    "zlib",
    "zoneinfo",
}
# Of other modules, these alone: `intern` returns the text that it is given.
PERMITTED_NAMES = {"sys.intern"}
# Names through which permitted modules would read a clock, and builtins that reach outside.
CLOCKS = {"now", "utcnow", "today", "time_ns", "monotonic", "perf_counter"}
OUTSIDE = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not _all_permitted(node):
            yield node.module or "."


def _all_permitted(node: ast.ImportFrom) -> bool:
    return {f"{node.module}.{alias.name}" for alias in node.names} <= PERMITTED_NAMES


def impurities(source: str) -> set[str]:
    """Return what in a module's text reaches for the world outside its arguments."""
    tree = ast.parse(source)
    found = {name for name in imported(tree) if name not in PERMITTED and not name.startswith("policies.")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            found.add(node.attr)
        elif isinstance(node, ast.Name) and node.id in OUTSIDE:
            found.add(node.id)
        elif isinstance(node, ast.Global):
            found.add("global")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_contract_reads_no_clock_and_does_no_io(path: Path) -> None:
    """Every module of the contract is made of its arguments alone."""
    assert impurities(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.time()", {"time"}),
        ("from time import time", {"time"}),
        ("import datetime\ndatetime.datetime.now()", {"now"}),
        ("from datetime import date\ndate.today()", {"today"}),
        ("import os, random, secrets", {"os", "random", "secrets"}),
        ("from os.path import join", {"os.path"}),
        ("from metering import counters", {"metering"}),
        ("def f():\n    import asyncio", {"asyncio"}),
        ("open('x')", {"open"}),
        ("import sys", {"sys"}),
        ("from sys import argv, intern", {"sys"}),
        ("from sys import intern", set()),
        ("def f():\n    global x\n    x = 1", {"global"}),
        ("from datetime import UTC, date\nfrom policies.period import midnight", set()),
    ],
)
def test_the_check_itself_notices(source: str, found: set[str]) -> None:
    """Clocks, randomness, files and other packages are noticed wherever in a module they stand."""
    assert impurities(source) == found


def test_all_modules_are_looked_at() -> None:
    """The check sees the contract's modules, and each of them has tests of its own."""
    modules = {path.stem for path in SOURCES} - {"__init__"}
    assert {
        "decision",
        "keys",
        "methods",
        "money",
        "period",
        "plan_versions",
        "plans",
        "pricing",
        "quota",
        "record",
        "standing",
        "trial",
    } <= modules
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert modules <= tested
