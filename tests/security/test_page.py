"""The page on security: each claim has a test, and the test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gateway.control.auth import Role

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE)))


def names_of(path: Path) -> set[str]:
    """Return the names of a file's tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return {each.name for each in functions if each.name.startswith("test_")}


@pytest.mark.parametrize("named", NAMED)
def test_each_named_test_exists(named: str) -> None:
    """A claim's test stands in the file that the page names, under that name."""
    file, _, name = named.partition("::")
    found = names_of(ROOT / file)
    assert found
    assert not name or name in found


def test_each_claim_has_a_test() -> None:
    """Every row of a table of claims names at least one test."""
    claims = 0
    for table in re.findall(r"(?m)^\|[^\n]*\| test \|\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", PAGE):
        for row in table.splitlines():
            claims += 1
            assert "`tests/" in row, row
    assert claims > 25


def test_every_role_is_described() -> None:
    """The table of roles has a row for each."""
    assert all(f"| `{role}` |" in PAGE for role in Role)


def test_everything_stolen_is_looked_at() -> None:
    """Each test of theft is named by the page that draws conclusions from it."""
    thefts = names_of(Path(__file__).with_name("test_theft.py")) - {"test_what_is_right_opens"}
    assert all(name in PAGE for name in thefts)
