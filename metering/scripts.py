"""The Lua scripts beside this file, read once; what each takes and answers is written at its top."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that Redis gives it."""

    name: str
    text: bytes = field(repr=False)
    sha: str


def _read(name: str) -> Script:
    text = (Path(__file__).parent / "lua" / f"{name}.lua").read_bytes()
    return Script(name, text, sha1(text).hexdigest())  # noqa: S324 - Redis names scripts so; nothing rests on it


TAKE = _read("take")
SETTLE = _read("settle")
PROJECT = _read("project")
RAISE = _read("raise")
COLLECT = _read("collect")
ADVANCE = _read("advance")
