"""Peppers in the data directory, where the configuration names none.

The first one is `p1`, in the file `pepper`. One that had to take the place of a lost one has a name and a
file of its own, `p2` in `pepper-2` and so on: the lost one may turn up, and is then put back beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FIRST = "p1"
_FILE = re.compile(r"pepper(?:-([2-9]|[1-9]\d{1,5}))?")
_NAME = re.compile(r"p([1-9]\d{0,5})")


def place(data_dir: Path, name: str) -> Path:
    """Return the file of a pepper."""
    return data_dir / ("pepper" if name == FIRST else f"pepper-{_number(name)}")


def among(paths: Iterable[Path]) -> list[str]:
    """Return the names of those files that are peppers, the newest first."""
    found = [each for path in paths if (each := _FILE.fullmatch(path.name)) is not None]
    return newest_first(f"p{each[1] or 1}" for each in found)


def newest_first(names: Iterable[str]) -> list[str]:
    """Return names in the order in which a configuration would have them."""
    return sorted(names, key=_number, reverse=True)


def following(names: Iterable[str]) -> str:
    """Return the name after all these."""
    return f"p{max(map(_number, names), default=0) + 1}"


def _number(name: str) -> int:
    """Return a generated name's number, 0 for another name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0
