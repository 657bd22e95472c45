from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from gateway.listeners import Listeners, listening_socket
from gateway.ports import free_port

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told where connections go")
CLIENTS = 60


@pytest.fixture
def port() -> int:
    """A port that nobody has."""
    return free_port()


@pytest.fixture
def listeners(port: int) -> Iterator[Listeners]:
    """Three places at one port."""
    made = Listeners("127.0.0.1", port)
    for place in range(3):
        made.descriptor(place)
    yield made
    made.close()


def spread(listeners: Listeners, port: int) -> list[int]:
    """Connect many times, and return how many connections came to each place."""
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        return [accepted(listeners.descriptor(place)) for place in range(len(listeners))]


def accepted(descriptor: int) -> int:
    """Accept all that waits, as the process of a place does, on a descriptor of its own."""
    count = 0
    with socket.socket(fileno=os.dup(descriptor)) as own:
        own.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                own.accept()[0].close()
                count += 1
    return count


@linux
def test_new_connections_go_to_all_places(listeners: Listeners, port: int) -> None:
    """Without anything said, each place gets a share."""
    shares = spread(listeners, port)
    assert sum(shares) == CLIENTS
    assert all(shares)


@linux
@pytest.mark.parametrize("serving", [{0, 2}, {1}, {0, 1}])
def test_places_that_do_not_serve_get_no_new_connections(
    listeners: Listeners, port: int, serving: set[int]
) -> None:
    """The others share all of them; with everybody back, everybody has a share again."""
    listeners.serve(serving)
    shares = spread(listeners, port)
    assert sum(shares) == CLIENTS
    assert {place for place, share in enumerate(shares) if share} == serving
    listeners.serve({0, 1, 2})
    assert all(spread(listeners, port))


def test_with_nobody_left_connections_wait_for_whoever_comes_first(listeners: Listeners, port: int) -> None:
    """None is turned away while all places are empty."""
    listeners.serve({0})
    listeners.serve(())
    assert sum(spread(listeners, port)) == CLIENTS


def test_a_connection_waits_for_the_next_process_of_its_place(port: int) -> None:
    """What a process that died has not accepted is accepted by the one after it."""
    listeners = Listeners("127.0.0.1", port)
    first = socket.socket(fileno=os.dup(listeners.descriptor(0)))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"still here")
        first.close()
        with socket.socket(fileno=os.dup(listeners.descriptor(0))) as second:
            connection, _ = second.accept()
            with connection:
                assert connection.recv(64) == b"still here"
    listeners.close()


@linux
def test_fewer_places_leave_the_others_their_connections(listeners: Listeners, port: int) -> None:
    """A place that nothing is sent to any more is closed, and nothing is lost; it can be opened again."""
    listeners.serve({0, 1})
    listeners.keep(2)
    shares = spread(listeners, port)
    assert (len(shares), sum(shares)) == (2, CLIENTS)
    listeners.descriptor(2)
    assert spread(listeners, port)[2] == 0
    listeners.serve({0, 1, 2})
    assert all(spread(listeners, port))


def test_a_port_of_one_socket_is_not_shared(port: int) -> None:
    """Where connections are not to be shared out, a second listener is refused."""
    with listening_socket("127.0.0.1", port), pytest.raises(OSError, match="in use"):
        listening_socket("127.0.0.1", port)


def test_an_address_of_the_sixth_version_is_understood() -> None:
    """A host with a colon is an IPv6 address."""
    try:
        opened = listening_socket("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with opened:
        assert opened.family == socket.AF_INET6
