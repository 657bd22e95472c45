"""Real clusters, and a master with its Sentinels, out of the same wheel as the embedded store."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from gateway.data_dir import run_directory
from gateway.stores import EmbeddedValkey

START_S = 30.0
MEETING_S = 5.0
# Servers forget whom they did not come to know within their timeout, and each step takes a write to a disk
# that may be busy: while they meet it is long.
MEETING_TIMEOUT_MS = 15_000
NODE_TIMEOUT_MS = 1000  # of silence, after which a server counts as gone
SLOTS = 16_384
AT_ONCE = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


@dataclass
class Node:
    """A server that listens on a port of this host."""

    port: int
    process: subprocess.Popen[bytes]
    client: Redis = field(repr=False)

    @property
    def name(self) -> str:
        """The name that other servers of a cluster know it by."""
        return str(self.client.execute_command("CLUSTER", "MYID").decode())

    def kill(self) -> None:
        """End it as a loss of power would."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it on what it left behind, and wait until it answers."""
        self.process = subprocess.Popen(
            self.process.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        eventually(self.client.ping)

    @property
    def address(self) -> str:
        """Where it listens, as clients write it down."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Freeze it; `go_on` thaws it."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Thaw it."""
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def nodes(directory: Path, count: int, *options: str) -> Iterator[list[Node]]:
    """Run so many servers with further options until the block ends."""
    started: list[Node] = []
    try:
        for number in range(count):
            home = directory / f"node-{number}"
            home.mkdir()
            started.append(_start(home, _free_port(), options))
        for node in started:
            eventually(node.client.ping)
        yield started
    finally:
        for node in started:
            node.go_on()
            node.kill()
            node.client.close()


@contextlib.contextmanager
def cluster(
    directory: Path, replicas_of: Sequence[int] = (0, 0, 0), *, node_timeout_ms: int = NODE_TIMEOUT_MS
) -> Iterator[list[Node]]:
    """Run a cluster of masters with so many replicas each; gives the masters first.

    With a long `node_timeout_ms` no replica takes over by itself.
    """
    masters = len(replicas_of)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(MEETING_TIMEOUT_MS))
    with nodes(directory, masters + sum(replicas_of), *options) as all_nodes:
        bounds = [SLOTS * number // masters for number in range(masters + 1)]
        for node, low, high in zip(all_nodes[:masters], bounds, bounds[1:], strict=False):
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
        try:
            eventually(lambda: _have_met(all_nodes))
        except AssertionError as error:
            error.add_note("\n".join(map(_known_to, all_nodes)))
            raise
        followed = [node for node, count in zip(all_nodes, replicas_of, strict=False) for _ in range(count)]
        for node, master in zip(all_nodes[masters:], followed, strict=True):
            node.client.execute_command("CLUSTER", "REPLICATE", master.name)
        for node in all_nodes:
            eventually(lambda node=node: _is_ok(node))
        for node in all_nodes[masters:]:
            eventually(lambda node=node: node.client.info("replication")["master_link_status"] == "up")
        for node in all_nodes:
            node.client.config_set("cluster-node-timeout", node_timeout_ms)
        yield all_nodes


@contextlib.contextmanager
def watched_master(directory: Path, *, sentinels: int = 3) -> Iterator[tuple[list[Node], list[Node]]]:
    """Run a master with one replica, named `counts`; gives both of them, and their Sentinels."""
    with nodes(directory, 2) as (master, replica):
        replica.client.execute_command("REPLICAOF", "127.0.0.1", master.port)
        eventually(lambda: replica.client.info("replication")["master_link_status"] == "up")
        watching: list[Node] = []
        try:
            for number in range(sentinels):
                watching.append(_watch(directory / f"sentinel-{number}", master.port))
            for node in watching:
                eventually(lambda node=node: _sees(node, sentinels - 1))
            yield [master, replica], watching
        finally:
            for node in watching:
                node.kill()
                node.client.close()


def url(kind: str, all_nodes: list[Node], rest: str = "") -> str:
    """Return the URL of these servers as `redis+<kind>`."""
    return f"redis+{kind}://" + ",".join(f"127.0.0.1:{node.port}" for node in all_nodes) + rest


def eventually(holds: Callable[[], object], *, within_s: float = START_S) -> None:
    """Wait until something holds; raises AssertionError when it does not for long."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(RedisError, OSError):
            if holds():
                return
        assert time.monotonic() < deadline, "the servers did not come together"
        time.sleep(0.05)


def _start(home: Path, port: int, options: tuple[str, ...]) -> Node:
    store = EmbeddedValkey(home, run_directory(home))
    store.prepare()
    line = [*store.command(), "--port", str(port), "--bind", "127.0.0.1", *AT_ONCE, *options]
    return _run(line, port, store.log_file)


def _watch(home: Path, master_port: int) -> Node:
    home.mkdir()
    port = _free_port()
    config = home / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {home}\n"
        f"sentinel monitor counts 127.0.0.1 {master_port} 2\n"
        f"sentinel down-after-milliseconds counts {NODE_TIMEOUT_MS}\n"
        "sentinel failover-timeout counts 3000\n"
    )
    store = EmbeddedValkey(home, run_directory(home))
    store.prepare()
    command = store.command()
    server = next(part for part in command if part.endswith("valkey-server"))
    return _run([server, str(config), "--sentinel"], port, home / "log")


def _run(line: list[str], port: int, log_file: Path) -> Node:
    with log_file.open("wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    return Node(port, process, Redis(port=port, socket_timeout=5))


def _free_port() -> int:
    # Servers of a cluster talk to each other on a port 10,000 above. Both lie below those that the system
    # gives to outgoing connections, one of which might take a port between this look at it and its use. Tests
    # that run at once choose among different ones: a cluster goes on looking for servers that it has lost.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
    while True:
        port = 12_000 + 1_000 * worker + random.randrange(1_000)
        with socket.socket() as probe, socket.socket() as bus, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def _cluster_info(node: Node) -> dict[str, str]:
    lines = node.client.execute_command("CLUSTER", "INFO").decode().split()
    return dict(line.split(":", 1) for line in lines)


def _have_met(all_nodes: Sequence[Node]) -> bool:
    """Let servers meet; those that have not done so for long are told again."""
    first, *others = all_nodes
    for node in others:
        node.client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port)
    try:
        for node in all_nodes:
            eventually(lambda node=node: _knows(node, len(all_nodes)), within_s=MEETING_S)
    except AssertionError:
        return False
    return True


def _knows(node: Node, count: int) -> bool:
    return _cluster_info(node)["cluster_known_nodes"] == str(count)


def _known_to(node: Node) -> str:
    known = node.client.execute_command("CLUSTER", "NODES")
    return f"{node.address} knows\n{known.decode() if isinstance(known, bytes) else known}"


def _is_ok(node: Node) -> bool:
    return _cluster_info(node)["cluster_state"] == "ok"


def _sees(node: Node, others: int) -> bool:
    (master,) = node.client.sentinel_masters().values()
    return int(master["num-other-sentinels"]) == others and int(master["num-slaves"]) == 1
