"""Restoring a backup: first all that speaks against it, then one transaction, then a check."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.backup import archive, ledgers, postgres
from gateway.backup.archive import Manifest
from gateway.backup.postgres import BackupError, Progress
from gateway.first_start import LedgerError, another_token, open_ledger
from gateway.settings import Settings
from metering.ledger import inventory, make_engine, marks
from metering.ledger.inventory import Inventory
from metering.open_calls import DIRECTORY

Agreed = Callable[[Manifest, Inventory], bool]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: rows in all, journals put in place, and the schema revision in the end.

    `new_token` says that an admin token was made, since the data directory had none.
    """

    rows: int
    journals: int
    revision: str
    new_token: bool


def restore(
    settings: Settings,
    backup: Path,
    *,
    new_pepper: bool,
    agreed: Agreed,
    told: Progress,
    settled: Callable[[], Settings] | None = None,
) -> Restored | None:
    """Put the ledger of a backup in place of the one that is there; raises BackupError.

    `agreed` is asked with the backup's manifest and what it would replace; None when it says no. The other
    stores are left alone: the next start finds that Redis does not fit the ledger and makes it anew.
    `settled` gives the settings once that is agreed, with a generated pepper kept: the new token is under it.
    """
    manifest = archive.read(backup)
    revision = manifest.ledger.revision
    if revision is None or not inventory.is_known(revision):
        raise BackupError(
            f"The backup's schema is {revision}, newer than this version knows: install that one."
        )
    if not new_pepper:
        _check_peppers(manifest.peppers, settings)
    try:
        with ledgers.reachable(settings.stores, alone=True) as url, tempfile.TemporaryDirectory() as folder:
            dump = Path(folder) / "dump"
            archive.extract(backup, archive.DUMP, dump)
            return asyncio.run(_restore(url, dump, manifest, settings, settled, backup, agreed, told))
    except LedgerError as error:
        raise BackupError(str(error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise BackupError(f"The ledger cannot be restored ({type(error).__name__}: {error}).") from error


def _check_peppers(wanted: Mapping[str, str], settings: Settings) -> None:
    have = {name: archive.fingerprint(pepper) for name, pepper in settings.security.peppers}
    lacking = [name for name, print_ in wanted.items() if have.get(name) != print_]
    if lacking:
        raise BackupError(
            f"The pepper {', '.join(lacking)} is not the one that the backup's keys were made with, so no "
            f"key would be recognised. Put it back first: to {settings.stores.data_dir / 'pepper'}, or to "
            "where [[security.peppers]] says. If it is lost, --new-pepper restores without it: every key "
            "then needs `tallygate key rotate`."
        )


async def _restore(
    url: str,
    dump: Path,
    manifest: Manifest,
    settings: Settings,
    settled: Callable[[], Settings] | None,
    backup: Path,
    agreed: Agreed,
    told: Progress,
) -> Restored | None:
    engine = make_engine(url, pool_size=1, command_timeout_s=3_600.0)
    try:
        async with engine.connect() as connection:
            others = await inventory.gateways(connection)
            if others:
                raise BackupError(f"{others} connections of gateways to this ledger stand. Stop them first.")
            there = await inventory.take(connection)
            clearing = await inventory.clearing(connection, manifest.ledger.rows)
        if not await asyncio.to_thread(agreed, manifest, there):
            return None
        if settled is not None:
            settings = await asyncio.to_thread(settled)
        told("ledger")
        await asyncio.to_thread(postgres.restore, url, dump, clearing)
        told("comparing")
        async with engine.connect() as connection:
            now = await inventory.take(connection)
        if now != manifest.ledger:
            different = sorted(
                name for name in manifest.ledger.rows if now.rows.get(name) != manifest.ledger.rows[name]
            )
            raise BackupError(
                f"The restored ledger is not the backup's: {', '.join(different) or 'its schema'}."
            )
        told("schema")
        await open_ledger(engine)
        await _outdate_redis(engine)
        new_token = await another_token(engine, settings)
        async with engine.connect() as connection:
            revision = (await inventory.take(connection)).revision
        assert revision is not None, "it was just brought to one"
    finally:
        await engine.dispose()
    journals = await asyncio.to_thread(_put_journals, manifest, backup, settings)
    return Restored(sum(manifest.ledger.rows.values()), journals, revision, new_token)


async def _outdate_redis(engine: AsyncEngine) -> None:
    """Let the next roll-up take Redis for older than the ledger, whatever it holds.

    It then looks at every counter, raises those that are lower than the ledger, carries over those that are
    higher, and fills Redis with the ledger's keys.
    """
    async with engine.begin() as connection:
        await marks.raise_to(connection, marks.ROLLUP, int(time.time() * 1000))


def _put_journals(manifest: Manifest, backup: Path, settings: Settings) -> int:
    """Put journals where they are brought in from; one that is still there is the newer one."""
    place = settings.stores.data_dir / DIRECTORY
    names = [name for name in manifest.files if name.startswith(archive.JOURNALS)]
    if names:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    put = 0
    for name in names:
        target = place / Path(name).name
        if not target.exists():
            archive.extract(backup, name, target)
            put += 1
    return put
