"""The load: `wrk` where it is installed, otherwise `benchmarks.drive`; a `Load` says what it measured."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import placed_on, python
from benchmarks.workloads import KEY_MARK, MARK, VARIANTS, Request, Workload
from gateway.leashing import leashed

_GRACE_S = 600.0  # of which the least is needed on a quiet machine


class LoadError(Exception):
    """The load could not be made, or the peer did not answer it as it should."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw: calls answered in `seconds`, failed ones, and latencies in milliseconds."""

    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float

    @property
    def rate(self) -> float:
        """Return the answered calls per second."""
        return self.answered / self.seconds


def has_wrk() -> bool:
    """Say whether the load comes from wrk."""
    return shutil.which("wrk") is not None


def run(
    port: int,
    request: Request,
    workload: Workload,
    seconds: float,
    cores: frozenset[int],
    folder: Path,
    rate: float | None = None,
) -> Load:
    """Ask a peer for `seconds`, as fast as it answers or at a `rate` (calls a second).

    wrk cuts the calls under way at the end off. It knows no rates, so those are made by our own load.
    """
    if rate is not None or not has_wrk():
        return drive(port, request, workload, cores, seconds=seconds, rate=rate)
    script = folder / "load.lua"
    script.write_text(_wrk_script(request, workload))
    connections = f"-c{workload.connections}"
    command = ["wrk", "-t1", connections, f"-d{seconds:.0f}", "--timeout", "10", "-s", str(script)]
    return _read(_output([*command, f"http://127.0.0.1:{port}"], cores, seconds))


def drive(
    port: int,
    request: Request,
    workload: Workload,
    cores: frozenset[int],
    *,
    seconds: float = 0,
    calls: int = 0,
    rate: float | None = None,
) -> Load:
    """Ask a peer for `seconds` or for so many `calls`, and wait for the last answer: no call is cut off."""
    asked = _asked(port, request, workload, seconds=seconds, calls=calls, rate=rate)
    return _read(_output(python("benchmarks.drive"), cores, seconds, asked))


@contextmanager
def driven(
    port: int,
    request: Request,
    workload: Workload,
    cores: frozenset[int],
    folder: Path,
    rate: float,
    *,
    turn_ns: int = 0,
) -> Iterator[Callable[[], Load]]:
    """Ask a peer at a `rate` while the block lasts; gives what ends the load and returns what it measured.

    With `turn_ns` it takes its turns on a core as what the gateway starts does.
    """
    asked = _asked(port, request, workload, rate=rate)
    with (folder / "driven.log").open("w+") as told, placed_on(cores):
        process = subprocess.Popen(
            leashed(python("benchmarks.drive"), on_parent_death=signal.SIGTERM, turn_ns=turn_ns),
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert process.stdin is not None
    print(asked, file=process.stdin, flush=True)

    def end() -> Load:
        process.stdin.close()
        if process.wait(_GRACE_S) != 0:
            raise LoadError(f"the load failed: {(folder / 'driven.log').read_text().strip()}")
        return _read((folder / "driven.log").read_text())

    try:
        yield end
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _asked(
    port: int,
    request: Request,
    workload: Workload,
    *,
    seconds: float = 0,
    calls: int = 0,
    rate: float | None = None,
) -> str:
    """Write what `benchmarks.drive` is to do; without seconds and calls it goes on until its input ends."""
    asked = {
        "port": port,
        "request": wire(request, port),
        "variants": workload.variants,
        "keys": workload.keys,
        "at_random": workload.random,
        "connections": workload.connections,
        "seconds": seconds,
        "calls": calls,
        "rate": rate,
    }
    return json.dumps(asked)


def wire(request: Request, port: int) -> str:
    """Return the request's text as it goes over the wire."""
    headers = {"Host": f"127.0.0.1:{port}", **dict(request.headers)}
    if request.body:
        headers["Content-Length"] = str(len(request.body))
    first = f"{request.http_method} {request.target} HTTP/1.1"
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", request.body])


def _output(command: list[str], cores: frozenset[int], seconds: float, told: str = "") -> str:
    with placed_on(cores):
        done = subprocess.run(
            command, input=told, capture_output=True, text=True, check=False, timeout=seconds + _GRACE_S
        )
    if done.returncode != 0:
        raise LoadError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _read(output: str) -> Load:
    return Load(**json.loads(output.strip().splitlines()[-1]))


def _wrk_script(request: Request, workload: Workload) -> str:
    """Write the script that makes requests out of parts, so that a call costs the load little."""
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in request.headers
    )
    next_key = f'string.format("key-%06d", math.random(0, {workload.keys - 1}))'
    if not workload.random:
        next_key = f"keys[at % {workload.keys}]"
    return f"""
local path = {json.dumps(request.target)}
local body = {json.dumps(request.body) if request.body else "nil"}
local before_key, before_mark, rest = "", "", ""
local keys, marks, at = {{}}, {{}}, 0
wrk.method = {json.dumps(request.http_method)}
{headers}
function init(args)
    rest = wrk.format(nil, path, nil, body)
    local first, last = rest:find("{KEY_MARK}", 1, true)
    if first then before_key, rest = rest:sub(1, first - 1), rest:sub(last + 1) end
    math.randomseed(os.time())
    for number = 0, {0 if workload.random else workload.keys - 1} do
        keys[number] = first and string.format("key-%06d", number) or ""
    end
    first, last = rest:find("{MARK}", 1, true)
    before_mark, rest = rest:sub(1, first - 1), rest:sub(last + 1)
    for number = 0, {VARIANTS - 1} do marks[number] = string.format("no-%05d", number) end
end
function request()
    at = at + 1
    return before_key .. {next_key} .. before_mark .. marks[at % {VARIANTS}] .. rest
end
function done(summary, latency, requests)
    local errors = summary.errors
    print(string.format(
        '{{"answered": %d, "failed": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f}}',
        summary.requests - errors.status,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
"""
