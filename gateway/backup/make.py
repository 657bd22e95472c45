"""Making a backup, while calls and billing go on.

The dump, the counts in the manifest and the time of the last roll-up are of one snapshot of the database, so
they belong together to the transaction. Journals are taken after it: what they hold is then not in the dump,
and is counted when they are brought in after a restore.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.backup import archive, ledgers, postgres
from gateway.backup.archive import Manifest
from gateway.backup.postgres import BackupError, Progress
from gateway.passwords import without_passwords
from gateway.settings import Settings
from metering.journal import SUFFIX
from metering.ledger import audit, inventory, make_engine
from metering.ledger.audit import Author, Change
from metering.ledger.inventory import Inventory
from metering.open_calls import DIRECTORY

BY = Author("command line")


def make(
    settings: Settings, config_path: Path | None, output: Path, told: Progress, *, warned: Progress
) -> Manifest:
    """Write a backup to `output`, whole or not at all, and a row of it to the audit log; raises BackupError.

    A ledger that takes no row, such as a standby, is backed up all the same, and `warned` of.
    """
    if output.exists():
        raise BackupError(f"{output} exists already; choose another name.")
    try:
        with ledgers.reachable(settings.stores) as url:
            try:
                manifest = _made(settings, config_path, output, url, told)
            except ConnectionError as error:
                raise BackupError(f"The ledger cannot be read ({type(error).__name__}).") from error
            except OSError as error:
                # Here, not outside: an open ledger would take it for a fault of its own place.
                raise BackupError(f"{output} cannot be written: {error.strerror}.") from error
            if (why := asyncio.run(_audit(url, output, manifest))) is not None:
                warned(f"The audit log could not be told of this backup ({why}).")
            return manifest
    except SQLAlchemyError as error:
        raise BackupError(f"The ledger cannot be read ({type(error).__name__}).") from error


def _made(settings: Settings, config_path: Path | None, output: Path, url: str, told: Progress) -> Manifest:
    with tempfile.TemporaryDirectory(prefix=".tallygate-backup-", dir=output.absolute().parent) as folder:
        draft = Path(folder)
        files = {archive.DUMP: draft / "dump"}
        ledger, server = asyncio.run(_dump(url, files[archive.DUMP], told))
        files |= _beside(settings, config_path, draft)
        told("checksums")
        manifest = Manifest(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            server=server,
            ledger=ledger,
            peppers={name: archive.fingerprint(pepper) for name, pepper in settings.security.peppers},
            files={name: archive.file_of(path) for name, path in files.items()},
        )
        archive.write(draft / "archive", files, manifest)
        archive.read(draft / "archive")
        (draft / "archive").rename(output)
        return manifest


async def _dump(url: str, to: Path, told: Progress) -> tuple[Inventory, str]:
    """Write the dump; return what is in it, and the server's version."""
    engine = make_engine(url, pool_size=1, command_timeout_s=3_600.0)
    try:
        async with engine.connect() as connection:
            snapshot = await inventory.snapshot_for_others(connection)
            ledger = await inventory.take(connection)
            server = str((await connection.execute(sa.text("SHOW server_version"))).scalar_one())
            if ledger.revision is None:
                raise BackupError("The database has no ledger in it: nothing has served on it yet.")
            # The snapshot lives as long as this transaction does.
            await asyncio.to_thread(postgres.dump, url, snapshot, to, told)
            return ledger, server
    finally:
        await engine.dispose()


async def _audit(url: str, output: Path, manifest: Manifest) -> str | None:
    """Note that a copy of everything was made; return why that cannot be noted, or None."""
    name = output.name.encode("utf-8", "replace").decode()
    after = {"made_at": manifest.made_at, "rows": sum(manifest.ledger.rows.values())}
    engine = make_engine(url, pool_size=1)
    try:
        async with engine.begin() as connection:
            change = Change("backup.create", "backup", name, None, after)
            await audit.write(connection, [change], now=datetime.now(UTC), by=BY)
    except (SQLAlchemyError, OSError) as error:
        return type(error).__name__
    finally:
        await engine.dispose()
    return None


def _beside(settings: Settings, config_path: Path | None, draft: Path) -> dict[str, Path]:
    """Copy what goes along with the dump; return the copies by their names in the archive."""
    files: dict[str, Path] = {}
    if config_path is not None:
        files[archive.CONFIG] = draft / "config"
        files[archive.CONFIG].write_text(without_passwords(config_path.read_text()))
    for journal in sorted((settings.stores.data_dir / DIRECTORY).glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):  # it has been brought in meanwhile
            files[archive.JOURNALS + journal.name] = Path(shutil.copyfile(journal, draft / journal.name))
    return files
