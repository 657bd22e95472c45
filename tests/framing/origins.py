"""Real servers as origins, each writing down every request that it serves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
START_S = 30.0

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format seen escape=json '{{"method":"$request_method","path":"$uri","query":"$args","status":$status,'
    '"headers":{{"x-api-key":"$http_x_api_key","x-forwarded-for":"$http_x_forwarded_for",'
    '"x-forwarded-host":"$http_x_forwarded_host","x-listed":"$http_x_listed","te":"$http_te",'
    '"connection":"$http_connection","x-tallygate-key":"$http_x_tallygate_key"}}}}';
  access_log {log} seen;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ default_type application/json; return 200 '{{"ErrorCode":"Ok"}}'; }}
  }}
}}
"""

APACHE = """
ServerName a.example
Listen 127.0.0.1:{port}
PidFile {directory}/pid
DefaultRuntimeDir {directory}
ErrorLog {directory}/error.log
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
User www-data
Group www-data
DocumentRoot {directory}/www
AliasMatch "^" {directory}/www/ok.json
<Directory {directory}/www>
  Require all granted
</Directory>
AllowEncodedSlashes NoDecode
LogFormat "%m\\t%U\\t%q\\t%>s\\t%{{X-Api-Key}}i\\t%{{X-Forwarded-For}}i\\t%{{X-Listed}}i\\t%{{TE}}i" seen
CustomLog {log} seen
"""


@dataclass(frozen=True)
class Seen:
    """One request as a server understood it: `path` resolved and unescaped, as an application gets it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Running:
    """A running origin."""

    name: str
    port: int
    log: Path
    read: Callable[[str], Seen]

    def seen(self) -> list[Seen]:
        """Return everything that was served up to now."""
        return [self.read(line) for line in self.log.read_text("utf-8", "replace").splitlines()]


def _from_json(line: str) -> Seen:
    seen = json.loads(line)
    return Seen(seen["method"], seen["path"], seen["query"], seen["headers"])


def _from_apache(line: str) -> Seen:
    parts = [re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), part) for part in line.split("\t")]
    names = ("x-api-key", "x-forwarded-for", "x-listed", "te")
    return Seen(parts[0], parts[1], parts[2].lstrip("?"), dict(zip(names, parts[4:], strict=True)))


def _python(*arguments: str) -> Callable[[Path, int], list[str]]:
    return lambda _, port: [sys.executable, "-m", *(argument.format(port=port) for argument in arguments)]


def _nginx(directory: Path, port: int) -> list[str]:
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, log=directory / "seen.log", port=port))
    return ["nginx", "-c", str(config), "-p", str(directory), "-e", str(directory / "error.log")]


def _apache(directory: Path, port: int) -> list[str]:
    www = directory / "www"
    www.mkdir()
    (www / "ok.json").write_text('{"ErrorCode":"Ok"}')
    for place in (directory, www):
        place.chmod(0o755)
    config = directory / "apache.conf"
    modules = "/usr/lib/apache2/modules"
    config.write_text(
        APACHE.format(directory=directory, log=directory / "seen.log", port=port, modules=modules)
    )
    return [APACHE_PROGRAM, "-X", "-f", str(config)]


APACHE_PROGRAM = shutil.which("apache2") or "/usr/sbin/apache2"

# Name -> the program to be installed, if it is no package of the tests'; its command; its log's reader.
COMMANDS: dict[str, tuple[str | None, Callable[[Path, int], list[str]], Callable[[str], Seen]]] = {
    "gunicorn": (
        None,
        _python(
            "gunicorn",
            "--bind",
            "127.0.0.1:{port}",
            "--workers",
            "1",
            "--threads",
            "4",
            "--keep-alive",
            "30",
            "--log-level",
            "error",
            "tests.framing.app:application",
        ),
        _from_json,
    ),
    "uvicorn": (
        None,
        _python(
            "uvicorn", "--port", "{port}", "--http", "h11", "--log-level", "error", "tests.framing.app:asgi"
        ),
        _from_json,
    ),
    "waitress": (None, _python("tests.framing.app", "{port}"), _from_json),
    "hypercorn": (
        None,
        _python("hypercorn", "--bind", "127.0.0.1:{port}", "--log-level", "ERROR", "tests.framing.app:asgi"),
        _from_json,
    ),
    "node": ("node", lambda _, port: ["node", str(HERE / "origin.js"), str(port)], _from_json),
    "nginx": ("nginx", _nginx, _from_json),
    "apache": (APACHE_PROGRAM, _apache, _from_apache),
}


def missing(name: str) -> str | None:
    """Say why an origin cannot run here, None when it can."""
    program = COMMANDS[name][0]
    found = program is None or shutil.which(program) is not None
    return None if found else f"{name} is not installed"


@contextlib.contextmanager
def origin(name: str, directory: Path) -> Iterator[Running]:
    """Run an origin until the block ends."""
    _, command, read = COMMANDS[name]
    port = free_port()
    log = directory / "seen.log"
    log.touch()
    environ = {**os.environ, "ORIGIN_LOG": str(log), "PYTHONPATH": str(ROOT)}
    with (directory / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command(directory, port),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environ,
            cwd=ROOT,
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{(directory / 'output.log').read_text()}")
            time.sleep(0.05)
        yield Running(name, port, log, read)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
