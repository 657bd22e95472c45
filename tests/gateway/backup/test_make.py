from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway import config
from gateway.backup import make
from gateway.backup.postgres import BackupError


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "backup.tar cannot be written: No space left"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "The ledger cannot be read"),
    ],
)
def test_a_failure_is_told_of_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError, said: str
) -> None:
    """A full disk under the backup is not the data directory's fault."""

    def fails(*_: object) -> None:
        raise failure

    monkeypatch.setattr(make, "_dump", fails)
    environ = {"TALLYGATE_DATA_DIR": str(tmp_path), "TALLYGATE_DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}
    settings = config.load(None, environ)
    with pytest.raises(BackupError, match=said):
        make.make(settings, None, tmp_path / "backup.tar", lambda _: None, warned=lambda _: None)
    assert not list(tmp_path.glob(".tallygate-backup-*"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is the folder of the backup that is missing."""
    environ = {"TALLYGATE_DATA_DIR": str(tmp_path), "TALLYGATE_DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}
    settings = config.load(None, environ)
    with pytest.raises(BackupError, match=r"none/backup.tar cannot be written: No such file"):
        make.make(settings, None, tmp_path / "none" / "backup.tar", lambda _: None, warned=lambda _: None)
