"""The load: `wrk` where it is installed, otherwise `benchmarks.drive`; a `Load` says what it measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import python
from benchmarks.workloads import MARK, VARIANTS, Request

_GRACE_S = 60.0


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
    port: int, request: Request, connections: int, seconds: float, cores: frozenset[int], folder: Path
) -> Load:
    """Ask a peer as fast as it answers for `seconds`; wrk cuts the calls under way at the end off."""
    if not has_wrk():
        return drive(port, request, connections, cores, seconds=seconds)
    script = folder / "load.lua"
    script.write_text(_wrk_script(request))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}", "--timeout", "10", "-s", str(script)]
    return _read(_output([*command, f"http://127.0.0.1:{port}"], cores, seconds))


def drive(
    port: int,
    request: Request,
    connections: int,
    cores: frozenset[int],
    *,
    seconds: float = 0,
    calls: int = 0,
) -> Load:
    """Ask a peer for `seconds` or for so many `calls`, and wait for the last answer: no call is cut off."""
    asked = {
        "port": port,
        "requests": [wire(request.variant(number), port) for number in range(VARIANTS)],
        "connections": connections,
        "seconds": seconds,
        "calls": calls,
    }
    return _read(_output(python("benchmarks.drive"), cores, seconds, json.dumps(asked)))


def wire(request: Request, port: int) -> str:
    """Return the request's text as it goes over the wire."""
    headers = {"Host": f"127.0.0.1:{port}", **dict(request.headers)}
    if request.body:
        headers["Content-Length"] = str(len(request.body))
    first = f"{request.http_method} {request.target} HTTP/1.1"
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", request.body])


def _output(command: list[str], cores: frozenset[int], seconds: float, told: str = "") -> str:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        done = subprocess.run(
            command, input=told, capture_output=True, text=True, check=False, timeout=seconds + _GRACE_S
        )
    finally:
        os.sched_setaffinity(0, own)
    if done.returncode != 0:
        raise LoadError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _read(output: str) -> Load:
    return Load(**json.loads(output.strip().splitlines()[-1]))


def _wrk_script(request: Request) -> str:
    """Write the script that makes all requests beforehand, so that a call costs the load little."""
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in request.headers
    )
    return f"""
local path = {json.dumps(request.target)}
local body = {json.dumps(request.body) if request.body else "nil"}
local requests, at = {{}}, 0
wrk.method = {json.dumps(request.http_method)}
{headers}
function init(args)
    for number = 0, {VARIANTS - 1} do
        local mark = string.format("no-%05d", number)
        local function variant(text) return text and (text:gsub("{MARK.replace("-", "%-")}", mark)) end
        requests[#requests + 1] = wrk.format(nil, variant(path), nil, variant(body))
    end
end
function request()
    at = at % #requests + 1
    return requests[at]
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
