"""TLS on both ports of the whole program: certificates of clients, and of its own when they are renewed."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Authority, authority
from tests.serving import Serving, serving, wait_until, write_config


def serial(port: int, context: ssl.SSLContext) -> str:
    """Return the serial number of the certificate that a port shows."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert wrapped.recv(16).startswith(b"HTTP/1.1 ")
        shown = wrapped.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


def command(program: Serving, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `tallygate key list` against the program."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
    line = [sys.executable, "-c", "from gateway.cli import main; main()"]
    line += ["--config", str(program.config_file), "key", "list"]
    return subprocess.run(line, env=plain | environ, capture_output=True, text=True, timeout=60, check=False)


def with_tls(place: Path, trusted: Authority) -> Path:
    """Write a configuration whose both ports ask for certificates of the authority."""
    config_file = write_config(place)
    text = config_file.read_text()
    for name in ("proxy", "control"):
        files = trusted.issue(name)
        files.key_file.chmod(0o600)
        text = text.replace(
            "[stores]",
            f'[server.{name}_tls]\ncert_file = "{files.cert_file}"\nkey_file = "{files.key_file}"\n'
            f'client_ca_file = "{trusted.ca_file}"\n[stores]',
            1,
        )
    config_file.write_text(text)
    return config_file


def test_certificates_are_asked_for_and_renewed_on_both_ports(tmp_path: Path) -> None:
    """A client shows its certificate on either port; SIGHUP takes renewed files, and refuses wrong ones."""
    trusted = authority(tmp_path)
    config_file = with_tls(tmp_path, trusted)
    own = trusted.issue("client")
    known, stranger = trusted.trusting(own), trusted.trusting()
    outdated = trusted.trusting(own)
    outdated.set_ciphers("DEFAULT:@SECLEVEL=0")
    with serving(config_file) as program:
        ports = (program.proxy_port, program.control_port)
        before = [serial(port, known) for port in ports]
        for port in ports:
            with pytest.raises((ssl.SSLError, OSError, AssertionError)):
                serial(port, stranger)
            with pytest.warns(DeprecationWarning):
                outdated.minimum_version = ssl.TLSVersion.TLSv1
                outdated.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, OSError)):
                serial(port, outdated)
            outdated.maximum_version = ssl.TLSVersion.TLSv1_2  # the version was all that was wrong
            serial(port, outdated)
        trust = {"SSL_CERT_FILE": str(trusted.ca_file)}
        shown = {"TALLYGATE_CLIENT_CERT": str(own.cert_file), "TALLYGATE_CLIENT_KEY": str(own.key_file)}
        assert command(program, **trust, **shown).returncode == 0
        refused = command(program, **trust)
        assert refused.returncode == 1
        assert "TALLYGATE_CLIENT_CERT" in refused.stderr

        for name in ("proxy", "control"):
            trusted.issue(name)  # into the same files
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(serial(port, known) != old for port, old in zip(ports, before, strict=True)))
        renewed = [serial(port, known) for port in ports]

        (tmp_path / "proxy.key").write_bytes((tmp_path / "control.key").read_bytes())
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration refused, the old one stays" in program.output)
        assert "server.proxy_tls" in program.output
        assert [serial(port, known) for port in ports] == renewed
