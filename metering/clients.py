"""Clients of Redis by URL: one server, the master that Sentinels name, or a cluster.

    redis://, rediss:// (TLS), unix://                      one server
    redis+sentinel://host:port,host:port/NAME/0             the master NAME, as its Sentinels know it
    redis+cluster://host:port,host:port                     a cluster, found through any of these

`rediss+sentinel` and `rediss+cluster` are the same over TLS. A user and a password stand before the hosts, as
in any URL, and Sentinels that want one of their own find it in `?sentinel_password=`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from metering.cluster import Address, ClusterWire, Topology
from metering.wire import DEFAULT_TIMEOUT_S, ServerWire, Wire

SERVER_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
SCHEMES = (*SERVER_SCHEMES, *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
DEFAULT_PORT, DEFAULT_SENTINEL_PORT = 6379, 26379


class WatchedClient(Redis):
    """A client of the master that Sentinels name; its end is the end of its connections to them."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        assert isinstance(self.connection_pool, SentinelConnectionPool)
        for sentinel in self.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


class ClusterClient(RedisCluster):
    """A client of a cluster, and what it knows of it for those who send in batches."""

    def __init__(self, seeds: list[Address], topology: Topology, **options: Any) -> None:
        super().__init__(startup_nodes=[ClusterNode(host, port) for host, port in seeds], **options)
        self.topology = topology


Client = Redis | ClusterClient


def connect(url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, max_connections: int = 32) -> Client:
    """Return a client fit for counting: it never repeats a write by itself, and each wait is bounded.

    Raises ValueError for a URL that is none of these. Nothing is connected yet.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_connections": max_connections,
    }
    check_url(url)
    scheme = url.partition("://")[0]
    if scheme in SERVER_SCHEMES:
        return Redis.from_url(url, retry=_never(), **options)
    parts = urlsplit(url)
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    over_tls = scheme.startswith("rediss")
    if scheme in CLUSTER_SCHEMES:
        return _cluster(_addresses(parts.netloc, DEFAULT_PORT), over_tls, options)
    return _sentinel(url, over_tls, options)


def check_url(url: str) -> None:
    """Raise ValueError, without any password in it, for a URL that `connect` cannot use."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{each}://' for each in SCHEMES)}")
    if scheme in CLUSTER_SCHEMES:
        _addresses(rest.partition("/")[0], DEFAULT_PORT)
    elif scheme in SENTINEL_SCHEMES:
        _service_of(url)
        _addresses(rest.partition("/")[0], DEFAULT_SENTINEL_PORT)


def may_fail_over(url: str) -> bool:
    """Say whether a replica may take the place of a server behind this URL."""
    return url.startswith(tuple(f"{scheme}://" for scheme in (*SENTINEL_SCHEMES, *CLUSTER_SCHEMES)))


def wire_to(client: Client, timeout_s: float | None = None, *, replicas: int = 0) -> Wire:
    """Return a way to what a client is connected to, for one user at a time.

    Each wait takes `timeout_s` at most (the client's own when None). With `replicas` what is written counts
    as answered when so many replicas of its server have it.
    """
    if isinstance(client, ClusterClient):
        return ClusterWire(client.topology, timeout_s, replicas=replicas)
    return ServerWire(client.connection_pool, timeout_s, replicas=replicas)


def _cluster(seeds: list[Address], over_tls: bool, options: dict[str, Any]) -> ClusterClient:
    pooled = options | {"retry": _never()}
    if over_tls:
        pooled["connection_class"] = SSLConnection

    def pool_of(address: Address) -> ConnectionPool:
        return ConnectionPool(host=address[0], port=address[1], **pooled)

    return ClusterClient(
        seeds, Topology(seeds, pool_of), ssl=over_tls, require_full_coverage=False, **options
    )


def _sentinel(url: str, over_tls: bool, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    service, database = _service_of(url)
    own = {key: value for key, value in options.items() if key.startswith("socket_")}
    if password := parse_qs(parts.query).get("sentinel_password"):
        own["password"] = password[0]
    if over_tls:
        own["ssl"] = options["ssl"] = True
    options |= {"retry": _never(), "db": database}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _addresses(parts.netloc, DEFAULT_SENTINEL_PORT), sentinel_kwargs=own, **options
    )
    master: Redis = sentinel.master_for(service, redis_class=WatchedClient)
    return master


def _service_of(url: str) -> tuple[str, int]:
    """Return the name of the master, and the number of the database."""
    service, _, database = urlsplit(url).path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL ends with the name of its master: redis+sentinel://host:port/NAME")
    if database and not database.isdecimal():
        raise ValueError(f"{database!r} is no number of a database: redis+sentinel://host:port/NAME/0")
    return service, int(database or 0)


def _addresses(netloc: str, default_port: int) -> list[Address]:
    addresses = []
    for text in netloc.rpartition("@")[2].split(","):
        host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        if not colon:
            host, port = text, str(default_port)
        if not host or not port.isdecimal():
            raise ValueError(f"{text!r} is no host:port")
        addresses.append((host.strip("[]"), int(port)))
    return addresses


def _never() -> Retry:
    return Retry(NoBackoff(), 0)
