from __future__ import annotations

import socket
import time

import pytest

from gateway import ports
from gateway.ports import PortError, check_port, free_port, listens


def test_a_port_that_is_taken_is_an_error_that_names_the_setting() -> None:
    """A port is taken too when its owner would share it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortError, match=rf"127.0.0.1:{port} .*another program.*\[server\] proxy_listen"):
            check_port("proxy_listen", "127.0.0.1", port)


def test_a_port_that_becomes_free_in_time_is_taken() -> None:
    """The workers of a killed supervisor may need a moment to go."""
    other = socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    polls = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        other.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        check_port("proxy_listen", "127.0.0.1", port, patience_s=60.0)
    assert polls == [ports.POLL_S]


def test_an_address_of_another_machine_is_an_error() -> None:
    """A mistyped host is told apart from a taken port."""
    with pytest.raises(PortError, match="does not have that address"):
        check_port("control_listen", "192.0.2.1", 8080)


def test_a_free_port_has_no_listener_until_somebody_listens() -> None:
    """`listens` sees a listener on every address through the loopback."""
    port = free_port()
    ask = listens("0.0.0.0", port)  # noqa: S104 - asked about, not bound
    assert not ask()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert ask()
