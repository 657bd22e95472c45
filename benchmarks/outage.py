"""Take Redis away for a minute under 500 calls a second: `make bench-outage`.

A whole `tallygate serve` with its demo marketplace runs beside a Valkey that is killed (or, with
`--fault stop`, made to hang) and comes back. Half of the calls go to a route that lets through, half to one
that refuses. The load is open: a call is due at its time whether the one before was answered or not, and its
latency counts from then. In the end what was answered is compared with what the ledger bills.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.steady import CLOSED, OPEN, Phase, Seen, load
from gateway import config
from gateway.data_dir import run_directory
from gateway.first_start import TOKEN_FILE
from gateway.ports import free_port
from gateway.stores import EmbeddedValkey

KEYS = 20  # on each route
WARM_UP_S, BEFORE_S, AFTER_S = 5.0, 10.0, 15.0
OPENING_S = 2.0  # until an outage is noticed; reckoned apart, as calls wait for their count until then
START_S, REPLAY_S = 60.0, 60.0
ADDED_GOAL_MS, REFUSAL_GOAL_MS, RECOVERY_GOAL_S = 50.0, 50.0, 2.0
NEVER = {401, 403, 429}


class Program:
    """The gateway under test, and its Redis."""

    def __init__(self, folder: Path, allowance: int) -> None:
        stores = folder / "store"
        stores.mkdir()
        self.store = EmbeddedValkey(stores, run_directory(stores))
        self.port, self.control_port = free_port(), free_port()
        self.data_dir = folder / "data"
        self._folder = folder
        self._redis: subprocess.Popen[bytes] | None = None
        text = config.example_path().read_text()
        changes = {
            'redis = "embedded"': f'redis = "{self.store.url}"',
            'data_dir = "data"': f'data_dir = "{self.data_dir}"',
            'proxy_listen = "127.0.0.1:8080"': f'proxy_listen = "127.0.0.1:{self.port}"',
            'control_listen = "127.0.0.1:8081"': f'control_listen = "127.0.0.1:{self.control_port}"',
            # Of the first route, /service-json/; the other ones stay closed.
            'on_counter_failure = "closed"': 'on_counter_failure = "open"',
            "open_allowance = 1000": f"open_allowance = {allowance}",
            'access = "refused"': 'access = "none"',
        }
        for old, new in changes.items():
            if text.count(old) != 1:
                raise RuntimeError(f"the example configuration says {old!r} in another way")
            text = text.replace(old, new)
        (folder / "config.toml").write_text(text)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run Redis and the gateway until the block ends."""
        self.start_redis()
        log = self._folder / "gateway.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
        with log.open("wb") as output:
            command = [sys.executable, "-c", "from gateway.cli import main; main()", "--config"]
            command += [str(self._folder / "config.toml"), "serve", "--demo"]
            gateway = subprocess.Popen(command, stdout=output, stderr=output, env=environ)
        try:
            ends = time.monotonic() + START_S
            while "Tallygate serves." not in log.read_text():
                if gateway.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"the gateway did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.wait()
            if self._redis is not None:
                self._redis.send_signal(signal.SIGCONT)
                self._redis.kill()
                self._redis.wait()

    def start_redis(self) -> None:
        """Start Redis with what its append-only file holds, and wait until it answers."""
        self.store.prepare()
        with self.store.log_file.open("ab") as log:
            self._redis = subprocess.Popen(self.store.command(), stdout=log, stderr=log)
        while not self.store.is_ready():
            time.sleep(0.005)

    def take_away(self, fault: str) -> None:
        """Make Redis go away."""
        assert self._redis is not None
        self._redis.send_signal(signal.SIGSTOP if fault == "stop" else signal.SIGKILL)
        if fault == "kill":
            self._redis.wait()

    def bring_back(self, fault: str) -> None:
        """Make Redis come back; returns when it answers."""
        assert self._redis is not None
        if fault == "stop":
            self._redis.send_signal(signal.SIGCONT)
        else:
            self.start_redis()

    def control(self, verb: str, path: str, body: object = None) -> Any:
        """Call the control API; returns the answer's JSON."""
        token = (self.data_dir / TOKEN_FILE).read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.control_port}{path}", data=sent, method=verb, headers=headers
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - our own
            return json.load(answer)

    def new_keys(self) -> dict[str, str]:
        """Make keys; returns their ids by their texts."""
        account = self.control("POST", "/v1/accounts", {"name": "Outage"})
        made = [
            self.control(
                "POST", "/v1/keys", {"account_id": account["id"], "plan": "K1", "daily_limit": 10**9}
            )
            for _ in range(KEYS)
        ]
        return {each["key"]: each["id"] for each in made}

    def billed(self, key_id: str) -> int:
        """Return the units of a key that are charged."""
        rows = self.control("GET", f"/v1/usage?group_by=key&key={key_id}&live=false")["items"]
        return sum(row["taken"] - row["waived"] for row in rows)

    def journals(self) -> int:
        """Return how many journals were not brought in yet."""
        return len(list((self.data_dir / "journal").glob("*.journal")))


async def run(program: Program, rate: float, outage_s: float, fault: str) -> bool:
    """Run the load through an outage and print what was seen; returns whether all promises were kept."""
    keys = {OPEN: program.new_keys(), CLOSED: program.new_keys()}
    seen = {OPEN: Seen(), CLOSED: Seen()}
    phase = Phase()
    tasks = [
        asyncio.create_task(load(route, program.port, list(keys[route]), rate / 2, phase, seen[route]))
        for route in (OPEN, CLOSED)
    ]
    await asyncio.sleep(WARM_UP_S)
    phase.name = "before"
    await asyncio.sleep(BEFORE_S)
    print(f"Redis goes away ({fault}) for {outage_s:.0f} s ...", flush=True)
    await asyncio.to_thread(program.take_away, fault)
    phase.name = "opening"
    await asyncio.sleep(min(OPENING_S, outage_s / 2))
    phase.name = "during"
    await asyncio.sleep(max(outage_s - OPENING_S, outage_s / 2))
    await asyncio.to_thread(program.bring_back, fault)
    back_at, phase.name = time.perf_counter(), "after"
    await asyncio.sleep(AFTER_S)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    ends = time.monotonic() + REPLAY_S
    while await asyncio.to_thread(program.journals) and time.monotonic() < ends:  # noqa: ASYNC110 - files
        await asyncio.sleep(0.1)
    for _ in range(2):
        await asyncio.to_thread(program.control, "POST", "/v1/rollup")
    ids = {text: key_id for made in keys.values() for text, key_id in made.items()}
    billed = {text: await asyncio.to_thread(program.billed, key_id) for text, key_id in ids.items()}
    return _report(seen, billed, back_at)


def _report(seen: Mapping[str, Seen], billed: Mapping[str, int], back_at: float) -> bool:
    print(f"\n{'route':8}{'phase':10}{'answer':32}{'calls':>8}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    for route, each in seen.items():
        for name, values in sorted(each.latencies.items(), key=lambda item: _order(item[0])):
            step, answer = name.split(" ", 1)
            figures = "".join(f"{value:10.1f}" for value in (*_percentiles(values), max(values)))
            print(f"{route:8}{step:10}{answer:32}{len(values):8}{figures}")
    let_through, refused = seen[OPEN], seen[CLOSED]
    statuses = {
        int(answer[:3]) for each in seen.values() for step in each.statuses.values() for answer in step
    }
    before, during = (
        _percentiles(let_through.latencies.get(f"{step} 200 answered", [0.0]))[1]
        for step in ("before", "during")
    )
    other = [answer for answer in let_through.statuses.get("during", ()) if answer != "200 answered"]
    refusals = [ms for name, some in refused.latencies.items() if name.startswith("during ") for ms in some]
    refusals_p99 = _percentiles(refusals or [0.0])[1]
    recovery_s = refused.first_answer_at.get("after", float("inf")) - back_at
    answered: Counter[str] = Counter()
    for each in seen.values():
        answered.update(each.answered)
    difference = sum(abs(billed[key] - answered[key]) for key in billed)
    broken = sum(each.broken for each in seen.values())
    promises = (
        (0 < during <= before + ADDED_GOAL_MS, f"open: p99 {during - before:+.1f} ms in the outage (+50)"),
        (not other, f"open: every call of the outage answered; otherwise {other}"),
        (
            0 < refusals_p99 <= REFUSAL_GOAL_MS,
            f"closed: p99 of {len(refusals)} refusals {refusals_p99:.1f} ms (50)",
        ),
        (not statuses & NEVER, f"statuses {sorted(statuses)} (never 401, 403, 429)"),
        (recovery_s <= RECOVERY_GOAL_S, f"closed: answered {recovery_s:.2f} s after Redis was back (2)"),
        (
            difference == 0,
            f"answered {sum(answered.values())}, billed {sum(billed.values())}, difference {difference} (0); "
            f"connections broken {broken}",
        ),
    )
    print()
    for kept, promise in promises:
        print(f"{'ok  ' if kept else 'FAIL'}  {promise}")
    return all(kept for kept, _ in promises)


def _order(name: str) -> tuple[int, str]:
    return ("warming", "before", "opening", "during", "after").index(name.split(" ", 1)[0]), name


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long Redis is away (60)")
    parser.add_argument("--rate", type=float, default=500.0, help="calls a second, half on each route (500)")
    parser.add_argument(
        "--fault", choices=["kill", "stop"], default="kill", help="killed, or made to hang (kill)"
    )
    options = parser.parse_args(arguments)
    allowance = max(1000, int(2 * options.rate * (options.seconds + WARM_UP_S)))
    with tempfile.TemporaryDirectory(prefix="tallygate-outage-") as folder:
        program = Program(Path(folder), allowance)
        with program.running():
            kept = asyncio.run(run(program, options.rate, options.seconds, options.fault))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
