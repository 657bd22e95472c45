"""A peer's turn under a workload, and the comparison of what it counted with what it answered."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import load, machine
from benchmarks.machine import Layout
from benchmarks.peers import Peer
from benchmarks.report import Account, Turn
from benchmarks.workloads import Request, Workload, request_of

WARM_UP_CALLS, WARM_UP_BYTES = 2_000, 2**27
ACCOUNT_CALLS, ACCOUNT_BYTES = 10_000, 2**30  # of answers, whichever is less
QUIET = 0.08  # share of the proxy's core that others may use; beyond it a turn is taken again
TAKES = 3
SETTLE_S = 5.0


def turn_of(
    peer: Peer, workload: Workload, layout: Layout, folder: Path, seconds: float, rate: float | None = None
) -> Turn:
    """Warm the peer up and measure it; a turn that others disturbed is taken again, whatever it showed."""
    request = request_of(workload, peer.credential)
    keys = 0 if workload.random else workload.keys
    warm_up = max(keys, min(WARM_UP_CALLS, WARM_UP_BYTES // workload.answer_bytes))
    load.drive(peer.port, request, workload, layout.rest, calls=warm_up)
    turns: list[Turn] = []
    while len(turns) < TAKES:
        turns.append(_take(peer, request, workload, layout, folder, seconds, rate))
        if turns[-1].strangers <= QUIET:
            break
    return min(turns, key=lambda turn: turn.strangers)


def _take(
    peer: Peer,
    request: Request,
    workload: Workload,
    layout: Layout,
    folder: Path,
    seconds: float,
    rate: float | None,
) -> Turn:
    assert peer.process is not None
    cpu_s, busy_s = peer.process.cpu_s(), machine.busy_s(layout.proxy)
    measured = load.run(peer.port, request, workload, seconds, layout.rest, folder, rate)
    cpu_s = peer.process.cpu_s() - cpu_s
    strangers = (machine.busy_s(layout.proxy) - busy_s - cpu_s) / measured.seconds
    if measured.answered == 0:
        raise load.LoadError(f"{peer.title} answered no call at all.")
    return Turn(measured, cpu_s, peer.process.memory_bytes(), max(0.0, strangers))


def account_of(peer: Peer, workload: Workload, layout: Layout, before: int | None, reached: int) -> Account:
    """Compare the peer's counter with the upstream's for all turns, then with the clients' in one more."""
    settled(peer, (before or 0) + reached)
    after_turns = peer.counted()
    request = request_of(workload, peer.credential)
    calls = min(ACCOUNT_CALLS, ACCOUNT_BYTES // workload.answer_bytes)
    clients = load.drive(peer.port, request, workload, layout.rest, calls=calls)
    if after_turns is None or before is None:
        return Account(clients.answered, None, reached, None)
    settled(peer, after_turns + clients.answered)
    return Account(clients.answered, (peer.counted() or 0) - after_turns, reached, after_turns - before)


def settled(peer: Peer, expected: int) -> None:
    """Wait until the counter shows the expected number: calls that were cut off are settled later."""
    deadline = time.monotonic() + SETTLE_S
    while peer.counted() not in (None, expected) and time.monotonic() < deadline:
        time.sleep(0.05)
