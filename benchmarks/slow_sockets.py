"""Measure what slow sockets do to everybody else: `python -m benchmarks.slow_sockets`.

Calls go on at a steady rate, first alone, then beside the slow sockets; each latency is taken from when the
call was due, so that a gateway which stops is not spared. Every setting is the example's. The run takes about
three minutes, because it waits until the last slow socket was closed by its deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine
from benchmarks.machine import StartError
from benchmarks.origin import Origin
from benchmarks.peers import Bench, MissingError
from benchmarks.peers.tallygate import Tallygate
from benchmarks.slow_clients import TARGET
from benchmarks.store import Store
from benchmarks.workloads import PAGE_BYTES

SETTLE_S = 5.0  # until all slow sockets stand
GOAL = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; returns 1 when a slow socket was never closed, or a call failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_sockets", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000, help="slow sockets that stand (default 1000)")
    parser.add_argument("--rate", type=int, default=200, help="other calls a second (default 200)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two phases (default 20)")
    options = parser.parse_args(arguments)
    layout = machine.layout()
    print(layout.sentence)
    try:
        with tempfile.TemporaryDirectory(prefix="tallygate-slow-") as folder, ExitStack() as stack:
            place = Path(folder)
            store = stack.enter_context(Store(layout.rest, place))
            origin = stack.enter_context(Origin(PAGE_BYTES, layout.rest, place))
            peer = Tallygate(Bench(layout, store, origin.port, place))
            stack.enter_context(peer)
            return _measure(peer, options.sockets, options.rate, options.seconds)
    except (StartError, MissingError) as error:
        print(error, file=sys.stderr)
        return 1


def _measure(peer: Tallygate, sockets: int, rate: int, seconds: float) -> int:
    assert peer.process is not None
    call = f"GET {TARGET}?instanceKey={peer.credential}&itemId=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    asyncio.run(_steady(peer.port, call, rate, 2.0))
    before_ms, failed = asyncio.run(_steady(peer.port, call, rate, seconds))
    memory = peer.process.memory_bytes()
    command = machine.python(
        "benchmarks.slow_clients", str(peer.port), peer.credential, str(sockets), str(SETTLE_S + seconds)
    )
    attack = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(SETTLE_S)
        beside_ms, more_failed = asyncio.run(_steady(peer.port, call, rate, seconds))
        grown = peer.process.memory_bytes() - memory
        out, _ = attack.communicate(timeout=300)
    finally:
        attack.kill()
        attack.wait()
    failed += more_failed
    kinds = json.loads(out)
    ratio = _p(beside_ms, 99) / _p(before_ms, 99)
    for values, beside in ((before_ms, "alone"), (beside_ms, f"beside {sockets} slow sockets")):
        print(f"{len(values)} calls {beside}: p50 {_p(values, 50):.1f} ms, p99 {_p(values, 99):.1f} ms")
    print(f"p99 {ratio:.2f} times as long (goal: at most {GOAL:.0f}); {failed} calls failed")
    print(f"The worker grew by {grown / 2**20:.1f} MiB, {grown / sockets / 1024:.0f} KiB a socket.")
    for name, kind in kinds.items():
        print(
            f"{name:12} {kind['closed']} of {kind['opened']} closed by the gateway, "
            f"the last one after {kind['longest_s']:.0f} s"
        )
    open_ones = sum(kind["opened"] - kind["closed"] for kind in kinds.values())
    return 1 if open_ones or failed else 0


async def _steady(port: int, call: bytes, rate: int, seconds: float) -> tuple[list[float], int]:
    """Make calls at a steady rate over kept connections; returns latencies in ms, and how many failed."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies_ms: list[float] = []
    failed = 0

    async def one(due: float) -> None:
        nonlocal failed
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            writer.write(call)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            failed += 1
            return
        failed += b'"ErrorCode":"Ok"' not in body
        latencies_ms.append((time.perf_counter() - due) * 1000)
        idle.append((reader, writer))

    began = time.perf_counter()
    calls = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        calls.append(asyncio.create_task(one(due)))
    await asyncio.gather(*calls)
    for _, writer in idle:
        writer.close()
    return latencies_ms, failed


def _p(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


if __name__ == "__main__":
    sys.exit(main())
