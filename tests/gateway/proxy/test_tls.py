"""TLS on the listener, and to upstreams."""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

import pytest

from gateway.settings import Settings, Tls
from gateway.tls import tls_context
from tests.certificates import Authority, authority
from tests.origin import OK_JSON, Origin, origin
from tests.rig import example_settings, rig


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that everybody trusts."""
    return authority(tmp_path_factory.mktemp("trusted"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def files(trusted: Authority) -> Tls:
    """A certificate of the trusted authority, for a server."""
    return trusted.issue("server")


@pytest.fixture(scope="module")
def stranger_files(stranger: Authority) -> Tls:
    """A certificate of the other authority, for a server."""
    return stranger.issue("server")


def get(key: str) -> bytes:
    """Return a plain call."""
    return f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def listening(port: int, tls: Tls) -> Settings:
    """Return settings with a certificate on the proxy's listener."""
    settings = example_settings(port)
    return dataclasses.replace(settings, server=dataclasses.replace(settings.server, proxy_tls=tls))


def over_tls(port: int, ca_file: Path) -> Settings:
    """Return settings whose upstreams are spoken to over TLS and trusted by `ca_file` alone."""
    settings = example_settings(port)
    ups = {u: dataclasses.replace(u, tls=True, ca_file=ca_file) for u in settings.upstreams}
    return dataclasses.replace(
        settings,
        upstreams=tuple(ups.values()),
        routes=tuple(dataclasses.replace(route, upstream=ups[route.upstream]) for route in settings.routes),
    )


async def test_clients_are_served_over_tls(
    redis: object, valkey_url: str, upstream: Origin, trusted: Authority, files: Tls
) -> None:
    """A call over TLS is answered, and the upstream is told that it came so."""
    async with rig(valkey_url, upstream, listening(upstream.port, files)) as path:
        key = await path.add_key()
        async with path.client(trusted.trusting()) as client:
            assert (await client.send(get(key))).body == OK_JSON
        assert upstream.received[0].header(b"x-forwarded-proto") == b"https"


async def test_a_client_without_a_certificate_is_turned_away_where_one_is_required(
    redis: object, valkey_url: str, upstream: Origin, trusted: Authority, stranger: Authority, files: Tls
) -> None:
    """With `client_ca_file` only certificates of that authority are served."""
    required = dataclasses.replace(files, client_ca_file=trusted.ca_file)
    async with rig(valkey_url, upstream, listening(upstream.port, required)) as path:
        key = await path.add_key()
        async with path.client(trusted.trusting(files)) as client:
            assert (await client.send(get(key))).body == OK_JSON
        for own in (None, stranger.issue("client")):
            with pytest.raises((ssl.SSLError, OSError, EOFError)):
                async with path.client(trusted.trusting(own)) as client:
                    await client.send(get(key))
    assert len(upstream.received) == 1


async def test_an_upstream_is_called_over_tls(
    redis: object, valkey_url: str, trusted: Authority, files: Tls
) -> None:
    """An upstream whose certificate its authority has signed is called; connections are kept."""
    async with origin(tls_context(files)) as upstream:
        async with rig(valkey_url, upstream, over_tls(upstream.port, trusted.ca_file)) as path:
            key = await path.add_key()
            async with path.client() as client:
                for _ in range(3):
                    assert (await client.send(get(key))).body == OK_JSON
        assert upstream.connections == 1


async def test_an_upstream_with_a_strangers_certificate_is_not_called(
    redis: object, valkey_url: str, trusted: Authority, stranger_files: Tls
) -> None:
    """What cannot prove its name gets no request, and the call costs nothing."""
    async with origin(tls_context(stranger_files)) as upstream:
        async with rig(valkey_url, upstream, over_tls(upstream.port, trusted.ca_file)) as path:
            key = await path.add_key()
            assert (await path.send(get(key))).json()["ErrorCode"] == "NotAvailable"
            assert (await path.counts(key))["v:upstream_unreachable"] == 1
        assert upstream.received == []
