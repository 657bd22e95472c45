"""Backing up a ledger of one's own, and restoring it: all of it, or nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.backup import archive, make, postgres, restore
from gateway.backup.archive import Manifest
from gateway.backup.postgres import BackupError
from gateway.backup.restore import Restored
from gateway.config import TOKEN_FILE, example_path, load
from gateway.control.auth import token_digest
from gateway.settings import Settings
from metering.journal import SUFFIX, encode_header
from metering.ledger.inventory import Inventory
from metering.open_calls import DIRECTORY

ACCOUNT = "INSERT INTO accounts (id, name, currency, created_at) VALUES ($1, $1, 'USD', now())"


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """The example with a ledger of one's own and an empty data directory."""
    environ = {"TALLYGATE_DATA_DIR": str(tmp_path / "data"), "TALLYGATE_DATABASE_URL": database_url}
    return load(example_path(), environ)


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of somebody who is no gateway, on a ledger with an account."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(ACCOUNT, "acc_before")
    yield connection
    await connection.close()


async def made(settings: Settings, output: Path) -> Manifest:
    return await asyncio.to_thread(make.make, settings, None, output, lambda _: None, warned=pytest.fail)


async def restored(settings: Settings, backup: Path, *, agree: bool = True) -> Restored | None:
    asked: list[Inventory] = []

    def agreed(_: Manifest, there: Inventory) -> bool:
        asked.append(there)
        return agree

    def run() -> Restored | None:
        return restore.restore(settings, backup, new_pepper=False, agreed=agreed, told=lambda _: None)

    done = await asyncio.to_thread(run)
    assert len(asked) == 1, "it was asked once what is to be replaced"
    return done


async def accounts(ledger: asyncpg.Connection) -> set[str]:
    return {row["id"] for row in await ledger.fetch("SELECT id FROM accounts")}


async def test_a_restored_ledger_is_the_one_that_was_backed_up(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection
) -> None:
    """Rows, triggers and schema are those of then, what came later is gone, and Redis is marked as older."""
    manifest = await made(settings, tmp_path / "backup")
    assert manifest.ledger.rows["accounts"] == 1
    await ledger.execute(ACCOUNT, "acc_after")
    done = await restored(settings, tmp_path / "backup")
    assert done is not None
    assert done.revision == manifest.ledger.revision
    assert await accounts(ledger) == {"acc_before"}
    triggers = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
    assert await ledger.fetchval(triggers) > 0
    mark = await ledger.fetchval("SELECT value FROM marks WHERE name = 'rollup'")
    assert mark > manifest.ledger.rolled_up_ms


async def test_the_token_of_another_ledger_is_replaced(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection
) -> None:
    """One that opens the restored ledger stays as it is."""
    await made(settings, tmp_path / "backup")
    settings.stores.data_dir.mkdir(exist_ok=True)
    token = settings.stores.data_dir / TOKEN_FILE
    token.write_text("tgc_of_the_ledger_that_was_here_before\n")
    done = await restored(settings, tmp_path / "backup")
    assert done is not None
    assert done.new_token
    left = token.read_text().strip()
    digests = await ledger.fetch("SELECT digest FROM tokens")
    assert token_digest(left, settings.security) in [row["digest"] for row in digests]
    await made(settings, tmp_path / "later")
    done = await restored(settings, tmp_path / "later")
    assert done is not None
    assert not done.new_token
    assert token.read_text().strip() == left


async def test_a_backup_is_audited(tmp_path: Path, settings: Settings, ledger: asyncpg.Connection) -> None:
    """A copy of everything leaves a row; a ledger that takes none is backed up with a warning."""
    manifest = await made(settings, tmp_path / "monday.tar")
    query = "SELECT actor, action, object_id, after FROM audit WHERE object = 'backup'"
    (row,) = await ledger.fetch(query)
    assert tuple(row)[:3] == ("command line", "backup.create", "monday.tar")
    assert json.loads(row["after"])["rows"] == sum(manifest.ledger.rows.values())
    await ledger.execute("ALTER TABLE audit RENAME TO elsewhere")
    warnings: list[str] = []
    output = tmp_path / "tuesday.tar"
    await asyncio.to_thread(make.make, settings, None, output, lambda _: None, warned=warnings.append)
    await ledger.execute("ALTER TABLE elsewhere RENAME TO audit")
    assert output.exists()
    assert warnings == ["The audit log could not be told of this backup (ProgrammingError)."]


async def test_a_restore_is_audited(tmp_path: Path, settings: Settings, ledger: asyncpg.Connection) -> None:
    """The restored ledger tells what it took the place of, of when it is, and by which peppers it goes on."""
    manifest = await made(settings, tmp_path / "monday.tar")
    await ledger.execute(ACCOUNT, "acc_after")
    assert await restored(settings, tmp_path / "monday.tar") is not None
    query = "SELECT actor, action, object_id, before, after FROM audit WHERE action = 'backup.restore'"
    (row,) = await ledger.fetch(query)
    assert tuple(row)[:3] == ("command line", "backup.restore", "monday.tar")
    before, after = json.loads(row["before"]), json.loads(row["after"])
    assert before["rows"] == after["rows"] + 2  # the account, and that there was a backup
    assert (after["made_at"], after["peppers"]) == (manifest.made_at, ["p1"])


async def test_a_pepper_in_place_of_a_lost_one_has_a_name_of_its_own(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection, database_url: str
) -> None:
    """What is under either can be told apart, and the lost one is understood again when it turns up."""
    await made(settings, tmp_path / "backup")
    place = settings.stores.data_dir
    lost = (place / "pepper").read_bytes()
    (place / "pepper").unlink()
    environ = {"TALLYGATE_DATA_DIR": str(place), "TALLYGATE_DATABASE_URL": database_url}

    def configured(*, keep_pepper: bool = True) -> Settings:
        return load(example_path(), environ, keep_pepper=keep_pepper)

    fresh = await asyncio.to_thread(configured, keep_pepper=False)

    def run() -> Restored | None:
        return restore.restore(
            fresh, tmp_path / "backup", new_pepper=True, agreed=lambda *_: True, told=lambda _: None
        )

    assert await asyncio.to_thread(run) is not None
    assert sorted(each.name for each in place.glob("pepper*")) == ["pepper-2"]
    assert (place / "pepper-2").stat().st_mode & 0o777 == 0o600
    assert await ledger.fetchval("SELECT pepper_id FROM tokens") == "p2"
    now = await asyncio.to_thread(configured)
    token = (place / TOKEN_FILE).read_text().strip()
    assert await ledger.fetchval("SELECT digest FROM tokens") == token_digest(token, now.security)
    (place / "pepper").write_bytes(lost)
    both = (await asyncio.to_thread(configured)).security.peppers
    assert [name for name, _ in both] == ["p2", "p1"]
    assert both[1] == settings.security.peppers[0]


async def test_a_configured_name_is_not_given_to_two_peppers(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection
) -> None:
    """Whoever names peppers by themselves is told to name the new one anew, before anything is changed."""
    await made(settings, tmp_path / "backup")
    security = dataclasses.replace(
        settings.security, peppers=(("p1", b"another" * 8),), peppers_are_generated=False
    )
    with pytest.raises(BackupError, match="an id of its own"):
        await asyncio.to_thread(
            restore.restore,
            dataclasses.replace(settings, security=security),
            tmp_path / "backup",
            new_pepper=True,
            agreed=lambda *_: pytest.fail("nothing was to be asked"),
            told=lambda _: None,
        )


async def test_a_no_changes_nothing(tmp_path: Path, settings: Settings, ledger: asyncpg.Connection) -> None:
    """Whoever sees what would be replaced and declines has the ledger as it was."""
    await made(settings, tmp_path / "backup")
    await ledger.execute(ACCOUNT, "acc_after")
    assert await restored(settings, tmp_path / "backup", agree=False) is None
    assert await accounts(ledger) == {"acc_before", "acc_after"}


async def test_a_restore_that_fails_half_way_changes_nothing(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection, database_url: str
) -> None:
    """Removing the old ledger and writing the new one are one transaction."""
    await made(settings, tmp_path / "backup")
    await asyncio.to_thread(archive.extract, tmp_path / "backup", archive.DUMP, tmp_path / "dump")
    content = (tmp_path / "dump").read_bytes()
    (tmp_path / "dump").write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(BackupError, match="as it was"):
        await asyncio.to_thread(
            postgres.restore, database_url, tmp_path / "dump", ["DROP TABLE accounts CASCADE"]
        )
    assert await accounts(ledger) == {"acc_before"}


async def test_a_ledger_that_a_gateway_uses_is_not_replaced(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection, database_url: str
) -> None:
    """A gateway anywhere that is connected to it has to be stopped first."""
    await made(settings, tmp_path / "backup")
    gateway = await asyncpg.connect(database_url, server_settings={"application_name": "tallygate"})
    with pytest.raises(BackupError, match="1 connections of gateways"):
        await asyncio.to_thread(
            restore.restore,
            settings,
            tmp_path / "backup",
            new_pepper=False,
            agreed=lambda *_: True,
            told=lambda _: None,
        )
    await gateway.close()


async def test_journals_come_back_unless_they_are_still_there(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection
) -> None:
    """One that survived has all that the backup's has, and perhaps more."""
    place = settings.stores.data_dir / DIRECTORY
    place.mkdir(parents=True)
    for name in ("lost", "kept"):
        (place / f"{name}{SUFFIX}").write_bytes(encode_header(name))
    await made(settings, tmp_path / "backup")
    (place / f"lost{SUFFIX}").unlink()
    (place / f"kept{SUFFIX}").write_bytes(encode_header("kept") + b"more")
    done = await restored(settings, tmp_path / "backup")
    assert done is not None
    assert done.journals == 1
    assert (place / f"lost{SUFFIX}").read_bytes() == encode_header("lost")
    assert (place / f"kept{SUFFIX}").read_bytes() == encode_header("kept") + b"more"


async def test_a_configuration_goes_along_without_its_passwords(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection
) -> None:
    """Everything but the password of a URL is as it was written."""
    file = tmp_path / "config.toml"
    urls = (
        '[stores]\nredis = "redis+sentinel://:{0}@host/counts?sentinel_password={0}&timeout=1"\n'
        'database = "postgresql://u:{0}/and@{0}@db/n?password={0}" # of u@db\n'
    )
    file.write_text(urls.format("hunter2"))
    await asyncio.to_thread(
        make.make, settings, file, tmp_path / "backup", lambda _: None, warned=pytest.fail
    )
    await asyncio.to_thread(archive.extract, tmp_path / "backup", archive.CONFIG, tmp_path / "out")
    assert (tmp_path / "out").read_text() == urls.replace("{0}/and@{0}", "{0}").format("[hidden]")


async def test_a_backup_replaces_no_file_and_leaves_no_half_one(
    tmp_path: Path, settings: Settings, ledger: asyncpg.Connection
) -> None:
    """An existing file is kept; a failure leaves nothing behind."""
    place = tmp_path / "backups"
    place.mkdir()
    (place / "old").write_text("an older backup")
    with pytest.raises(BackupError, match="exists already"):
        await made(settings, place / "old")
    nowhere = "postgresql://nobody:nothing@127.0.0.1:1/none?sslmode=disable"
    stores = dataclasses.replace(settings.stores, database_url=nowhere)
    with pytest.raises(BackupError):
        await made(dataclasses.replace(settings, stores=stores), place / "new")
    assert [each.name for each in place.iterdir()] == ["old"]


async def test_a_backup_of_a_newer_schema_is_refused(tmp_path: Path, settings: Settings) -> None:
    """This version could not use it; the error says what to install."""
    dump = tmp_path / "dump"
    dump.write_bytes(b"of another time")
    files = {archive.DUMP: await asyncio.to_thread(archive.file_of, dump)}
    manifest = Manifest("", "18", Inventory("9999", {}, 0), {}, files)
    await asyncio.to_thread(archive.write, tmp_path / "backup", {archive.DUMP: dump}, manifest)
    with pytest.raises(BackupError, match="9999"):
        await restored(settings, tmp_path / "backup")
