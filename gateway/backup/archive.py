"""A backup's file: a tar archive of a dump, the configuration and journals, and a manifest of it all.

The manifest comes last, so an archive that was cut off has none. It holds each file's size and SHA-256, and
what the ledger held when the dump was made, by which a restored one is checked. Everything in it may be read
by whoever has the backup: no pepper, password or token is among it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.backup.postgres import BackupError
from metering.ledger.inventory import Inventory

FORMAT = 1
MANIFEST = "manifest.json"
DUMP = "ledger.dump"
CONFIG = "config.toml"
JOURNALS = "journal/"
MANIFEST_MAX_BYTES = 1 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """A file in the archive."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is of. `peppers` holds a fingerprint of each pepper by its id, see `fingerprint`."""

    made_at: str
    server: str
    ledger: Inventory
    peppers: Mapping[str, str]
    files: Mapping[str, File]


def fingerprint(pepper: bytes) -> str:
    """Return what tells whether a pepper is the same one, and helps nobody to find it: it is random."""
    return hashlib.sha256(b"tallygate backup\0" + pepper).hexdigest()[:16]


def file_of(path: Path) -> File:
    """Return a file's size and checksum."""
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write(archive: Path, files: Mapping[str, Path], manifest: Manifest) -> None:
    """Write an archive, readable for this user only; what is there is replaced."""
    archive.unlink(missing_ok=True)
    archive.touch(mode=0o600)
    with tarfile.open(archive, "w") as tar:
        for name, path in files.items():
            tar.add(path, arcname=name, recursive=False, filter=_nobodys)
        text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode = len(text), 0o600
        tar.addfile(entry, io.BytesIO(text))


def read(archive: Path) -> Manifest:
    """Return the manifest after checking every file against it; raises BackupError."""
    with _opened(archive) as tar:
        members = {member.name: member for member in tar if member.isfile()}
        manifest = _manifest(tar, members.get(MANIFEST), archive)
        for name, file in manifest.files.items():
            member = members.get(name)
            if member is None:
                raise BackupError(f"{archive} is damaged: {name} is missing. Use another backup.")
            content = tar.extractfile(member)
            assert content is not None, "it is a file"
            if File(member.size, hashlib.file_digest(content, "sha256").hexdigest()) != file:  # type: ignore[arg-type]
                raise BackupError(
                    f"{archive} is damaged: {name} is not what was written. Use another backup."
                )
    return manifest


def extract(archive: Path, name: str, to: Path) -> None:
    """Write one file of an archive that `read` has checked, readable for this user only."""
    with _opened(archive) as tar:
        content = tar.extractfile(name)
        assert content is not None, "it is a file"
        to.touch(mode=0o600)
        with to.open("wb") as file:
            while block := content.read(_BLOCK):
                file.write(block)


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo | None, archive: Path) -> Manifest:
    if member is None or member.size > MANIFEST_MAX_BYTES:
        raise BackupError(f"{archive} is no whole backup: it has no manifest, which is written last.")
    content = tar.extractfile(member)
    assert content is not None, "it is a file"
    try:
        raw: dict[str, Any] = json.load(content)
        if raw.pop("format") != FORMAT:
            raise BackupError(
                f"{archive} was made by a newer version of Tallygate; restore it with that one."
            )
        raw["ledger"] = Inventory(**raw["ledger"])
        raw["files"] = {name: File(**each) for name, each in raw["files"].items()}
        if DUMP not in raw["files"]:
            raise BackupError(f"{archive} is no backup of a ledger: its manifest names no {DUMP}.")
        return Manifest(**raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackupError(f"{archive} has a manifest that cannot be read.") from error


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r:") as tar:
            yield tar
    except FileNotFoundError as error:
        raise BackupError(f"{archive} does not exist.") from error
    except OSError as error:
        raise BackupError(f"{archive} cannot be read: {error.strerror}.") from error
    except (tarfile.TarError, OverflowError) as error:  # the latter for a header's number beyond all bounds
        raise BackupError(f"{archive} is no whole backup: {error}.") from error


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry
