"""What the supervisor tells of its processes, in a file of the run directory that others read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "supervisor.json"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One supervised process; `state` is `ready`, `starting` or `down`."""

    name: str
    pid: int | None
    state: str
    restarts: int  # after deaths that nobody asked for


@dataclass(frozen=True, slots=True)
class Roll:
    """The last rolling restart: its number since the start, and `running`, `done` or `failed`."""

    number: int = 0
    state: str = "done"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RunState:
    """All processes of a `tallygate serve`."""

    workers: tuple[ProcessState, ...] = ()
    others: tuple[ProcessState, ...] = ()
    roll: Roll = Roll()


def write(run_dir: Path, state: RunState) -> None:
    """Replace the file; readers see the old one or the new one."""
    draft = run_dir / f".{FILE}"
    draft.write_text(json.dumps(asdict(state)))
    draft.replace(run_dir / FILE)


def read(run_dir: Path) -> RunState | None:
    """Return what the supervisor last wrote, None when there is no such file."""
    try:
        raw: dict[str, Any] = json.loads((run_dir / FILE).read_text())
    except FileNotFoundError:
        return None
    return RunState(
        tuple(ProcessState(**each) for each in raw["workers"]),
        tuple(ProcessState(**each) for each in raw["others"]),
        Roll(**raw["roll"]),
    )
