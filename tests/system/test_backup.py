"""Everything is lost but a backup and the pepper: what comes back, and what is known to be gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from gateway.stores import EmbeddedPostgres
from tests.serving import Serving, run_cli, serving, wait_until, write_config
from tests.system.traffic import counted, new_key

BEFORE, AFTER = 6, 4  # calls ahead of the backup and behind it
PRICES = """
[[plans.K1.versions]]
version = 1
announced_at = 2020-01-01
effective_from = 2020-02-01
model = "per_unit"
tiers = [{ unit = "0.10" }]
"""


@dataclass(slots=True)
class Lost:
    """What is left of a gateway: configuration, backup, pepper, and Redis' files in a safe place."""

    config_file: Path
    backup: Path
    pepper: bytes
    redis: Path
    key_id: str
    key: str
    late_key_id: str  # made after the backup
    late_key: str
    invoice: str
    month: str  # the invoice's

    @property
    def data_dir(self) -> Path:
        """Where everything was."""
        return self.config_file.parent / "data"

    def put_back(self, *, redis: bool) -> None:
        """Begin with an empty place and the pepper, and with what Redis kept if it did."""
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.data_dir.mkdir()
        (self.data_dir / "pepper").write_bytes(self.pepper)
        if redis:
            shutil.copytree(self.redis, self.data_dir / "valkey")


async def _make_customer_of_last_month(url: str, key_id: str, day: datetime) -> None:
    """Let a key be older than it is, with counts in the month before this one."""
    connection = await asyncpg.connect(url)
    try:
        since = day - timedelta(days=40)
        await connection.execute("UPDATE keys SET created_at = $2 WHERE id = $1", key_id, since)
        await connection.execute("UPDATE accounts SET created_at = $1", since)
        await connection.execute(
            "INSERT INTO key_days (key_id, day, used, back, methods, classes, calls, taken, waived)"
            " VALUES ($1, $2, 70, 0, '{SearchItemsFrame}', '{search}', '{70}', '{70}', '{0}')",
            key_id,
            day.date(),
        )
    finally:
        await connection.close()


def _cli(of: Serving | Path, *arguments: str) -> str:
    done = run_cli(of, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """A gateway with traffic and an invoice that was backed up, went on, and was lost with its machine."""
    config_file = write_config(tmp_path_factory.mktemp("backup"))
    place = config_file.parent
    prices = place / "prices.toml"
    prices.write_text(PRICES)
    backup = place / "backup.tar"
    last_month = datetime.now(UTC).replace(day=1, hour=12) - timedelta(days=10)
    month = f"{last_month:%Y-%m}"
    with serving(config_file) as running:
        key_id, key = new_key(running)
        for _ in range(BEFORE):
            assert running.search(key)["ErrorCode"] == "Ok"
        store = EmbeddedPostgres(running.data_dir, (running.data_dir / "run").resolve())
        asyncio.run(_make_customer_of_last_month(store.url, key_id, last_month))
        _cli(running, "plan", "apply", str(prices), "--yes")
        _cli(running, "bill", "close", month)
        _cli(running, "bill", "issue", month, "--yes")
        (invoice,) = running.control("GET", f"/v1/invoices?period={month}")["items"]
        wait_until(lambda: counted(running, key_id, live=False)["taken"] == BEFORE)
        made = json.loads(_cli(running, "backup", "create", "--output", str(backup), "--format", "json"))
        assert made["rows"] > 0
        for _ in range(AFTER):
            assert running.search(key)["ErrorCode"] == "Ok"
        late_key_id, late_key = new_key(running)
        assert running.search(late_key)["ErrorCode"] == "Ok"
        wait_until(lambda: counted(running, late_key_id, live=False)["taken"] == 1)
        wait_until(lambda: counted(running, key_id, live=False)["taken"] == BEFORE + AFTER)
        refused = run_cli(running, "restore", str(backup), "--yes", "--replace")
        assert refused.returncode == 1
        assert "Stop it first" in refused.stderr
        pepper = (running.data_dir / "pepper").read_bytes()
    shutil.copytree(running.data_dir / "valkey", place / "kept")
    shutil.rmtree(running.data_dir)
    return Lost(
        config_file, backup, pepper, place / "kept", key_id, key, late_key_id, late_key, invoice["id"], month
    )


@contextlib.contextmanager
def restored(lost: Lost, *, redis: bool) -> Iterator[Serving]:
    """Restore the backup, start, and fill Redis from the ledger."""
    lost.put_back(redis=redis)
    done = run_cli(lost.config_file, "restore", str(lost.backup), "--yes")
    assert done.returncode == 0, done.stderr
    assert "the rows are those of the backup" in done.stderr
    with serving(lost.config_file) as running:
        _cli(running, "rebuild", "--yes")
        yield running


def test_with_redis_lost_the_counts_are_those_of_the_last_roll_up_before_the_backup(lost: Lost) -> None:
    """Keys and bills are there, no book disagrees; what came later is gone, and its time is named."""
    with restored(lost, redis=False) as running:
        assert counted(running, lost.key_id, live=True) == {"taken": BEFORE, "waived": 0}
        assert running.control("GET", f"/v1/invoices/{lost.invoice}")["status"] == "issued"
        assert running.search(lost.key)["ErrorCode"] == "Ok"
        assert running.search(lost.late_key)["ErrorCode"] != "Ok"
        wait_until(lambda: counted(running, lost.key_id, live=False)["taken"] == BEFORE + 1)
        told = run_cli(running, "reconcile", "--period", lost.month, "--format", "json")
        assert (told.returncode, json.loads(told.stdout)["differences"]) == (0, []), told.stdout
        told = run_cli(running, "reconcile", "--period", f"{datetime.now(UTC):%Y-%m}", "--format", "json")
        assert "interruption" in {each["kind"] for each in json.loads(told.stdout)["differences"]}


def test_with_redis_kept_all_counts_are_back_and_what_is_gone_is_named(lost: Lost) -> None:
    """The counts of after the backup come out of Redis; its late key is named as one no account has."""
    with restored(lost, redis=True) as running:
        wait_until(lambda: counted(running, lost.key_id, live=False)["taken"] == BEFORE + AFTER)
        assert running.search(lost.key)["ErrorCode"] == "Ok"
        wait_until(lambda: counted(running, lost.key_id, live=False)["taken"] == BEFORE + AFTER + 1)
        told = run_cli(running, "reconcile", "--period", f"{datetime.now(UTC):%Y-%m}", "--format", "json")
        named = {
            each["object_id"]: each["explanation"]
            for each in json.loads(told.stdout)["differences"]
            if "no such key" in each["explanation"]
        }
        assert named == {lost.late_key_id: "the ledger has no such key"}
        told = run_cli(running, "reconcile", "--period", lost.month, "--format", "json")
        assert (told.returncode, json.loads(told.stdout)["differences"]) == (0, []), told.stdout


def test_without_the_pepper_nothing_is_restored(lost: Lost) -> None:
    """Keys that nobody could recognise are no restored gateway; the error says where the pepper belongs."""
    lost.put_back(redis=False)
    (lost.data_dir / "pepper").write_text("another pepper that is long enough to be one")
    refused = run_cli(lost.config_file, "restore", str(lost.backup), "--yes")
    assert refused.returncode == 1
    assert "pepper" in refused.stderr
    assert "--new-pepper" in refused.stderr
    assert not (lost.data_dir / "postgres").exists()


def test_a_lost_pepper_locks_no_operator_out(lost: Lost) -> None:
    """The token that a restore leaves is under the new pepper, which stays, and keys are given a new text."""
    shutil.rmtree(lost.data_dir, ignore_errors=True)
    tried = run_cli(lost.config_file, "restore", str(lost.backup), "--new-pepper", "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert not (lost.data_dir / "pepper").exists()
    done = run_cli(lost.config_file, "restore", str(lost.backup), "--new-pepper", "--yes")
    assert done.returncode == 0, done.stderr
    with serving(lost.config_file) as running:
        _cli(running, "rebuild", "--yes")
        assert running.search(lost.key)["ErrorCode"] == "AccessDenied"
        told = json.loads(_cli(running, "key", "rotate", lost.key_id, "--yes", "--format", "json"))
        assert running.search(told["key"])["ErrorCode"] == "Ok"


def test_a_ledger_that_is_not_empty_is_replaced_only_when_told_to(lost: Lost) -> None:
    """--dry-run says what is there and what would come; without --replace nothing is touched."""
    lost.put_back(redis=False)
    assert run_cli(lost.config_file, "restore", str(lost.backup), "--yes").returncode == 0
    shown = run_cli(lost.config_file, "restore", str(lost.backup), "--dry-run")
    assert shown.returncode == 0
    assert "key_days" in shown.stdout
    assert "Would: restore the ledger" in shown.stderr
    refused = run_cli(lost.config_file, "restore", str(lost.backup), "--yes")
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    assert run_cli(lost.config_file, "restore", str(lost.backup), "--yes", "--replace").returncode == 0


def test_a_backup_holds_no_secret(lost: Lost) -> None:
    """Neither the pepper nor a key's text is in it, and the file is for its owner alone."""
    content = lost.backup.read_bytes()
    assert lost.pepper.strip() not in content
    assert lost.key.encode() not in content
    assert lost.backup.stat().st_mode & 0o777 == 0o600
