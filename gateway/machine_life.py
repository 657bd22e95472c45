"""Whether the machine has died with the embedded counters: what was not synced by then is gone.

A process that is killed leaves what it wrote to the system, which brings it to the disk sooner or later. Only
the machine takes it along, and a server that comes back cannot tell. So a file beside its data says under
which boot of the machine it runs, or that it has ended with everything on the disk. A life of the data goes
on until the machine dies:

    started, killed, started            one life
    started, ended, booted, started     one life
    started, booted, started            another, with a higher number
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from metering.journal import sync_directory

PLACE = "valkey"  # in the data directory, beside the data that it tells of
FILE = "life"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED = ""


def boot_id() -> str:
    """Return what is different after every boot of the machine; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def begin(data_dir: Path, now: float) -> None:
    """Note, before the server is started at `now` (epoch s), that it runs under this boot; raises OSError."""
    life, boot = _read(data_dir)
    here = boot_id()
    if life == 0 or boot not in (_ENDED, here):
        life = max(int(now * 1000), life + 1)
    _write(data_dir, life, here)


def end(data_dir: Path) -> None:
    """Note that the server has ended and all that it wrote is on the disk; raises OSError."""
    life, _ = _read(data_dir)
    if life:
        _write(data_dir, life, _ENDED)


def life_of(data_dir: Path) -> int:
    """Return the number of the data's life, higher after every death of the machine; 0 when none is known."""
    return _read(data_dir)[0]


def _read(data_dir: Path) -> tuple[int, str]:
    try:
        kept = json.loads((data_dir / PLACE / FILE).read_bytes())
        return int(kept["life"]), str(kept["boot"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, _ENDED


def _write(data_dir: Path, life: int, boot: str) -> None:
    draft = data_dir / PLACE / f"{FILE}.new"
    with draft.open("w") as file:
        json.dump({"life": life, "boot": boot}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(data_dir / PLACE / FILE)
    sync_directory(data_dir / PLACE)
