"""Restoring a backup: first all that speaks against it, then one transaction, then a check."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import generated_peppers
from gateway.backup import archive, ledgers, postgres
from gateway.backup.archive import Manifest
from gateway.backup.make import BY
from gateway.backup.postgres import BackupError, Progress
from gateway.data_dir import make
from gateway.first_start import LedgerError, another_token, open_ledger, write_secret
from gateway.settings import Settings
from metering.ledger import audit, inventory, make_engine, marks
from metering.ledger.audit import Change
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
) -> Restored | None:
    """Put the ledger of a backup in place of the one that is there; raises BackupError.

    `agreed` is asked with the backup's manifest and what it would replace; None when it says no. The other
    stores are left alone: the next start finds that Redis does not fit the ledger and makes it anew.
    With `new_pepper` a pepper under a name of the backup's that is another one gets a name of its own.
    """
    manifest = archive.read(backup)
    revision = manifest.ledger.revision
    if revision is None or not inventory.is_known(revision):
        raise BackupError(
            f"The backup's schema is {revision}, newer than this version knows: install that one."
        )
    strange = _strange(manifest.peppers, settings)
    if not new_pepper:
        _check_peppers(strange | (manifest.peppers.keys() - dict(settings.security.peppers).keys()), settings)
    elif strange and not settings.security.peppers_are_generated:
        raise BackupError(
            f"The pepper {', '.join(sorted(strange))} is another one than the backup's of that name. Give it "
            "an id of its own in [[security.peppers]], so that the two can be told apart."
        )
    try:
        with ledgers.reachable(settings.stores, alone=True) as url, tempfile.TemporaryDirectory() as folder:
            dump = Path(folder) / "dump"
            archive.extract(backup, archive.DUMP, dump)
            return asyncio.run(_restore(url, dump, manifest, settings, backup, agreed, told))
    except LedgerError as error:
        raise BackupError(str(error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise BackupError(f"The ledger cannot be restored ({type(error).__name__}: {error}).") from error


def _strange(wanted: Mapping[str, str], settings: Settings) -> set[str]:
    """Return the names of the backup's peppers under which there are others here."""
    have = {name: archive.fingerprint(pepper) for name, pepper in settings.security.peppers}
    return {name for name, print_ in wanted.items() if have.get(name, print_) != print_}


def _check_peppers(lacking: Collection[str], settings: Settings) -> None:
    if lacking:
        raise BackupError(
            f"The pepper {', '.join(sorted(lacking))} is not the one that the backup's keys were made with, "
            f"so no key would be recognised. Put it back first: p1 to {settings.stores.data_dir / 'pepper'}, "
            "p2 to pepper-2 beside it, others to where [[security.peppers]] says. If it is lost, "
            "--new-pepper restores without it: every key then needs `tallygate key rotate`."
        )


def _renamed(wanted: Mapping[str, str], settings: Settings) -> Settings:
    """Give the data directory's peppers that are no longer the backup's names and files of their own.

    Else nobody could tell what is under a pepper that is lost from what is under the one in its place.
    """
    data_dir, strange = settings.stores.data_dir, _strange(wanted, settings)
    peppers: dict[str, bytes] = {}
    make(data_dir)
    for name, pepper in settings.security.peppers:
        fresh, former = name, generated_peppers.place(data_dir, name)
        if name in strange:
            fresh = generated_peppers.following({*wanted, *dict(settings.security.peppers), *peppers})
        file = generated_peppers.place(data_dir, fresh)
        if former.exists():
            former.rename(file)
        else:
            write_secret(file, pepper.decode("ascii"))
        peppers[fresh] = pepper
    names = generated_peppers.newest_first(peppers)
    security = replace(settings.security, peppers=tuple((name, peppers[name]) for name in names))
    return replace(settings, security=security)


async def _restore(
    url: str,
    dump: Path,
    manifest: Manifest,
    settings: Settings,
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
        if settings.security.peppers_are_generated:
            settings = await asyncio.to_thread(_renamed, manifest.peppers, settings)
        await _audit(engine, backup, manifest, there, settings)
        new_token = await another_token(engine, settings)
        async with engine.connect() as connection:
            revision = (await inventory.take(connection)).revision
        assert revision is not None, "it was just brought to one"
    finally:
        await engine.dispose()
    journals = await asyncio.to_thread(_put_journals, manifest, backup, settings)
    return Restored(sum(manifest.ledger.rows.values()), journals, revision, new_token)


async def _audit(
    engine: AsyncEngine, backup: Path, manifest: Manifest, there: Inventory, settings: Settings
) -> None:
    """Note in the restored ledger what it was put in place of, and by which peppers it goes on."""

    def told(ledger: Inventory) -> dict[str, object]:
        rows = sum(ledger.rows.values())
        return {"schema": ledger.revision, "rows": rows, "rolled_up_ms": ledger.rolled_up_ms}

    before = told(there)
    after = {**told(manifest.ledger), "made_at": manifest.made_at, "backup_peppers": sorted(manifest.peppers)}
    after["peppers"] = [name for name, _ in settings.security.peppers]
    name = backup.name.encode("utf-8", "replace").decode()
    async with engine.begin() as connection:
        change = Change("backup.restore", "backup", name, before, after)
        await audit.write(connection, [change], now=datetime.now(UTC), by=BY)


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
