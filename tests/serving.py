"""A whole `tallygate serve` in processes of its own, and short ways to use it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import psutil

from gateway import config
from gateway.config import TOKEN_FILE
from gateway.first_start import DEMO_KEY_FILE
from gateway.ports import free_port

_numbers = itertools.count(1)

START_S = 60.0
STOP_S = 40.0
READY_LINE = "Tallygate serves."


@dataclass(slots=True)
class Serving:
    """A running program; `family` looks at its processes anew each time."""

    process: subprocess.Popen[bytes]
    config_file: Path
    proxy_port: int
    control_port: int
    data_dir: Path
    output_file: Path

    @property
    def output(self) -> str:
        """What it wrote so far."""
        return self.output_file.read_text()

    @property
    def key(self) -> str:
        """The demo's key."""
        return (self.data_dir / DEMO_KEY_FILE).read_text().strip()

    @property
    def token(self) -> str:
        """The first control token."""
        return (self.data_dir / TOKEN_FILE).read_text().strip()

    def family(self) -> dict[str, psutil.Process]:
        """Return its processes by what they run, such as `gateway.worker 0` or `postgres`."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if "-m" in line:
                    module = line[line.index("-m") + 1]
                    found[f"{module} {line[-1]}" if "--index" in line else module] = child
                else:
                    found[child.name()] = child
        return found

    def workers(self) -> list[int]:
        """Return the workers' process ids."""
        return sorted(child.pid for name, child in self.family().items() if name.startswith("gateway.worker"))

    def request(
        self, verb: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request to the proxy on a connection of its own; returns status and body."""
        return _request(self.proxy_port, verb, path, body, headers or {})

    def search(self, key: str | None = None) -> dict[str, Any]:
        """Search the demo marketplace with the demo's key, or another; returns the answer's JSON."""
        query = urlencode({"instanceKey": key or self.key, "framePosition": 0, "frameSize": 2})
        _, body = self.request("GET", f"/service-json/SearchItemsFrame?{query}")
        found: dict[str, Any] = json.loads(body)
        return found

    def control(self, verb: str, path: str, body: object = None) -> Any:
        """Call the control API with the first token; returns the answer's JSON."""
        return json.loads(self.control_text(path, verb, body))

    def control_text(self, path: str, verb: str = "GET", body: object = None) -> str:
        """Call the control API with the first token; returns the answer as it is."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        status, answer = _request(self.control_port, verb, path, sent, headers)
        assert status < 300, answer
        return answer.decode()

    def units(self, *, live: bool = True) -> int:
        """Return the units that were taken this month, over all keys."""
        page = self.control("GET", f"/v1/usage?group_by=method&live={str(live).lower()}")
        return sum(row["taken"] for row in page["items"])

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end, wait, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=STOP_S)


def write_config(place: Path, *, workers: int = 1, proxy_port: int | None = None) -> Path:
    """Write the example with ports, workers and a data directory of a test's own."""
    file = place / "config.toml"
    file.write_text(config.example_path().read_text())
    change(
        file,
        proxy_listen=f'"127.0.0.1:{proxy_port or free_port()}"',
        control_listen=f'"127.0.0.1:{free_port()}"',
        workers=str(workers),
        data_dir=f'"{place / "data"}"',
        drain_s="5.0",
    )
    return file


def change(file: Path, **settings: str) -> None:
    """Set settings in a configuration, each written as TOML."""
    text = file.read_text()
    for setting, value in settings.items():
        text, changes = re.subn(rf"(?m)^{setting} = .*$", f"{setting} = {value}", text)
        assert changes == 1, setting
    file.write_text(text)


def start(config_file: Path, *options: str, first: str = "") -> Serving:
    """Start the program without waiting for it; what it writes goes to a file beside the configuration.

    `first` is Python that its first process runs before anything else.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
    output_file = config_file.with_name(f"output-{next(_numbers)}")
    with output_file.open("wb") as output:
        command = [sys.executable, "-c", f"{first}\nfrom gateway.cli import main; main()"]
        command += ["--config", str(config_file), "serve", *options]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
        )
    return Serving(process, config_file, *_places(config_file), output_file)


@contextlib.contextmanager
def serving(config_file: Path, *options: str, demo: bool = True, first: str = "") -> Iterator[Serving]:
    """Run the program until the block ends, with the demo marketplace behind it; gives it when it serves."""
    started = start(config_file, *(("--demo",) if demo else ()), *options, first=first)
    try:
        ends = time.monotonic() + START_S
        while READY_LINE not in started.output:
            assert started.process.poll() is None, started.output
            assert time.monotonic() < ends, (
                f"not ready after {START_S} s:\n{started.output}\n{started.family()}"
            )
            time.sleep(0.02)
        yield started
    finally:
        if started.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.stop()
        started.process.kill()
        started.process.wait()


def paste(line: str) -> tuple[int, str]:
    """Do what a shell does with a printed `curl` line, without curl; returns status and body."""
    words = shlex.split(line)
    assert words.pop(0) == "curl"
    url, fields, headers = "", [], {}
    while words:
        word = words.pop(0)
        if word == "-d":
            fields.append(words.pop(0))
        elif word == "--data-urlencode":
            name, _, value = words.pop(0).partition("=")
            fields.append(f"{name}={quote(value, safe='')}")
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        else:
            assert not word.startswith("-"), f"{word} is not understood here"
            url = word
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    if fields:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    body = "&".join(fields).encode() if fields else None
    status, answer = _request(parts.port or 80, "POST" if fields else "GET", target, body, headers)
    return status, answer.decode()


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a condition to hold; fails the test when it does not in time."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.02)


def _places(config_file: Path) -> tuple[int, int, Path]:
    """Return both ports and the data directory, of a wrong configuration too."""
    raw = tomllib.loads(config_file.read_text())
    proxy, control = (
        int(raw["server"][name].rsplit(":", 1)[1]) for name in ("proxy_listen", "control_listen")
    )
    return proxy, control, Path(raw["stores"]["data_dir"])


def _request(
    port: int, verb: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(verb, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def run_cli(
    of: Serving | Path, *arguments: str, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run the command line with the configuration of a program, or a configuration file."""
    config_file = of if isinstance(of, Path) else of.config_file
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "--config", str(config_file)]
    return subprocess.run(
        [*command, *arguments], env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
    )
