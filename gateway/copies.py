"""Where a configuration and the files that it names are read: where they stand, or out of copies.

A process that is started later reads them as they were when they were found right, whatever has become of
them since: a certificate that is half renewed, a pepper that somebody moved. Copies are named by what is in
them, so a renewed file is another one to whoever compares paths.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

FILE = "config.json"  # what else is in the directory are copies of files
_NAME_LENGTH = 32  # of hexadecimal digits


class Originals:
    """Files where they stand."""

    def config(self, path: Path) -> str:
        """Return a configuration's text; raises OSError and UnicodeDecodeError."""
        return path.read_text(encoding="utf-8")

    def of(self, path: Path) -> Path:
        """Return from where a file is to be read; raises OSError when it cannot be."""
        if not path.is_file() or not os.access(path, os.R_OK):
            raise FileNotFoundError(path)
        return path

    def within(self, place: Path) -> Iterable[Path]:
        """Return the files of a directory, none when there is no such directory; raises OSError."""
        return list(place.iterdir()) if place.is_dir() else []


class CopyError(Exception):
    """No copy can be kept; the message says where and why."""


class Copying(Originals):
    """Files where they stand, of each of which a copy is made in a directory, readable for this user only."""

    def __init__(self, place: Path) -> None:
        """Make the directory; raises CopyError."""
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CopyError(f"no copy can be kept in {place}: {error.strerror}") from error
        self._place = place
        self._text = ""
        self._names: dict[str, str] = {}
        self._draft = place / f".{FILE}"

    def config(self, path: Path) -> str:
        """Return a configuration's text; raises OSError and UnicodeDecodeError."""
        self._text = super().config(path)
        return self._text

    def of(self, path: Path) -> Path:
        """Return the copy of a file; raises OSError when it cannot be read, CopyError for the copy."""
        content = path.read_bytes()
        name = self._names[str(path)] = hashlib.sha256(content).hexdigest()[:_NAME_LENGTH]
        copy = self._place / name
        if not copy.exists():
            _write(copy, content)
        return copy

    def finish(self) -> None:
        """Write down what was read, for `take`; raises CopyError."""
        told = {"config": self._text, "files": self._names}
        self._draft.unlink(missing_ok=True)
        _write(self._draft, json.dumps(told).encode())

    def take(self) -> None:
        """Let `Copies` read from now on what was read here.

        What it read before stays until the next time: who was told to read again may not have done so yet.
        """
        used = set(self._names.values())
        if (file := self._place / FILE).exists():
            used.update(json.loads(file.read_bytes())["files"].values())
        self._draft.replace(file)
        for copy in self._place.iterdir():
            if copy.name not in used and copy != file:
                copy.unlink()


class Copies(Originals):
    """What a `Copying` wrote, which is all that there is."""

    def __init__(self, place: Path) -> None:
        """Read what is in the directory; raises OSError and ValueError."""
        told = json.loads((place / FILE).read_text(encoding="utf-8"))
        self._place = place
        self._text: str = told["config"]
        self._names: dict[str, str] = told["files"]

    def config(self, path: Path) -> str:
        """Return the configuration's text as it was."""
        return self._text

    def of(self, path: Path) -> Path:
        """Return the copy of a file; raises FileNotFoundError for one that was not taken over."""
        name = self._names.get(str(path))
        if name is None:
            raise FileNotFoundError(path)
        return self._place / name

    def within(self, place: Path) -> Iterable[Path]:
        """Return the files of a directory of which there are copies."""
        return [path for path in map(Path, self._names) if path.parent == place]


def _write(path: Path, content: bytes) -> None:
    """Write a file that is not there, readable for this user only, whole or not at all."""
    draft = path.with_name(f".{path.name}-draft")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError as error:
        raise CopyError(f"no copy can be kept in {path.parent}: {error.strerror}") from error
