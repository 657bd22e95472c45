from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from gateway.backup import archive
from gateway.backup.archive import Manifest
from gateway.backup.postgres import BackupError
from metering.ledger.inventory import Inventory

FORM = (
    '{{"format": 1, "made_at": "", "server": "", "peppers": {{}}, "files": {files},'
    ' "ledger": {{"revision": "0005", "rows": {{}}, "rolled_up_ms": 0}}}}'
)
LEDGER = Inventory("0005", {"keys": 2, "usage_daily": 40}, 1_790_000_000_000)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A whole archive with a dump and a journal."""
    files = {}
    for name, content in ((archive.DUMP, b"dump" * 1_000), (f"{archive.JOURNALS}a.journal", b"journal")):
        path = tmp_path / name.replace("/", "-")
        path.write_bytes(content)
        files[name] = path
    made = {name: archive.file_of(path) for name, path in files.items()}
    manifest = Manifest("2026-11-21T10:00:00+00:00", "18.0", LEDGER, {"p1": "print"}, made)
    archive.write(tmp_path / "backup", files, manifest)
    return tmp_path / "backup"


def test_what_was_written_is_read_again(backup: Path, tmp_path: Path) -> None:
    """Manifest and files come out as they went in, closed to others."""
    manifest = archive.read(backup)
    assert (manifest.ledger, manifest.peppers) == (LEDGER, {"p1": "print"})
    assert set(manifest.files) == {archive.DUMP, f"{archive.JOURNALS}a.journal"}
    archive.extract(backup, archive.DUMP, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"dump" * 1_000
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_changed_byte_is_found(backup: Path) -> None:
    """One wrong bit in a dump makes the backup one not to restore."""
    content = bytearray(backup.read_bytes())
    content[content.index(b"dumpdump") + 100] ^= 1
    backup.write_bytes(content)
    with pytest.raises(BackupError, match="not what was written"):
        archive.read(backup)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7])
def test_an_archive_that_was_cut_off_is_no_backup(backup: Path, share: float) -> None:
    """The manifest is written last, so a part of an archive is known for one wherever it ends."""
    content = backup.read_bytes()
    whole = content.rindex(b'"format"')
    backup.write_bytes(content[: int(whole * share)])
    with pytest.raises(BackupError, match="whole backup"):
        archive.read(backup)


def test_a_file_that_is_no_archive_is_an_error_that_says_so(tmp_path: Path) -> None:
    """So is one that does not exist."""
    other = tmp_path / "other"
    other.write_text("nothing of the kind" * 100)
    with pytest.raises(BackupError, match="no whole backup"):
        archive.read(other)
    with pytest.raises(BackupError, match="does not exist"):
        archive.read(tmp_path / "none")


def test_a_backup_of_a_later_form_is_refused(tmp_path: Path) -> None:
    """A form that this version does not know is not guessed at."""
    manifest = tmp_path / "manifest"
    manifest.write_text(json.dumps({"format": archive.FORMAT + 1}))
    with tarfile.open(tmp_path / "backup", "w") as tar:
        tar.add(manifest, arcname=archive.MANIFEST)
    with pytest.raises(BackupError, match="newer version"):
        archive.read(tmp_path / "backup")


@pytest.mark.parametrize(
    "text",
    ["null", "[]", "{", '{"format": 1, "ledger": {}, "files": []}', "[" * 100_000, FORM.format(files="{}")],
)
def test_a_manifest_that_is_none_is_an_error_that_says_so(tmp_path: Path, text: str) -> None:
    """So is one that names no dump."""
    manifest = tmp_path / "manifest"
    manifest.write_text(text)
    with tarfile.open(tmp_path / "backup", "w") as tar:
        tar.add(manifest, arcname=archive.MANIFEST)
    with pytest.raises(BackupError, match="manifest"):
        archive.read(tmp_path / "backup")


def test_a_missing_file_is_named(backup: Path, tmp_path: Path) -> None:
    """The manifest says what has to be there."""
    manifest = archive.read(backup)
    with tarfile.open(tmp_path / "less", "w") as tar:
        path = tmp_path / "text"
        ledger = {"revision": LEDGER.revision, "rows": LEDGER.rows, "rolled_up_ms": 0}
        files = {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in manifest.files.items()}
        form = {"format": 1, "made_at": "", "server": "", "ledger": ledger, "peppers": {}, "files": files}
        path.write_text(json.dumps(form))
        tar.add(path, arcname=archive.MANIFEST)
    with pytest.raises(BackupError, match="is missing"):
        archive.read(tmp_path / "less")


def test_a_fingerprint_tells_peppers_apart_and_nothing_else() -> None:
    """Equal peppers have equal fingerprints, and the pepper is not in it."""
    one, other = b"p" * 32, b"q" * 32
    assert archive.fingerprint(one) == archive.fingerprint(bytes(one))
    assert archive.fingerprint(one) != archive.fingerprint(other)
    assert len(archive.fingerprint(one)) == 16
