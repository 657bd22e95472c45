"""The Node peer: Fastify with its proxy plug-in, and one script a call through a client that pipelines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.machine import Process, free_port
from benchmarks.peers import PEPPER, MissingError, Peer, counted_by_script, put_keys

PREFIX = "fastify"
_HERE = Path(__file__).parent
_SOURCES = _HERE / "fastify_proxy"
_INSTALLED = _HERE.parents[1] / "build" / "fastify"


class Fastify(Peer):
    """One Node process; the packages are those of the lock file, fetched on first use."""

    title = "Fastify + Redis (Node)"

    def start(self) -> None:
        node = shutil.which("node")
        if node is None:
            raise MissingError("Node is not installed. Debian and Ubuntu: apt install nodejs npm.")
        _install()
        put_keys(self.bench.store.client, PREFIX, self.credentials)
        self.port = free_port()
        command = [
            node,
            str(_INSTALLED / "proxy.js"),
            *map(str, (self.port, self.bench.store.port, self.bench.origin_port)),
            *(PREFIX, PEPPER, str(_HERE / "count.lua")),
        ]
        self.process = Process("fastify", command, self.bench.layout.proxy, self.bench.folder)
        self.process.wait_for_port(self.port)

    def counted(self) -> int:
        return counted_by_script(self.bench.store.client, PREFIX)


def _install() -> None:
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    lock = _INSTALLED / "package-lock.json"
    is_new = not lock.exists() or lock.read_bytes() != (_SOURCES / "package-lock.json").read_bytes()
    for name in ("package.json", "package-lock.json", "proxy.js"):
        shutil.copyfile(_SOURCES / name, _INSTALLED / name)
    if is_new or not (_INSTALLED / "node_modules").is_dir():
        npm = shutil.which("npm")
        if npm is None:
            raise MissingError("npm is not installed. Debian and Ubuntu: apt install npm.")
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=_INSTALLED, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lock.unlink()
            raise MissingError(f"Its packages could not be fetched: {done.stderr.strip()[-500:]}")
