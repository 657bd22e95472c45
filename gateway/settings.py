"""The configuration as plain frozen objects, the only form in which the rest of the program sees it.

`gateway.config` reads, checks and builds them. Durations end in `_s`, sizes in `_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from policies.decision import Contract
from policies.methods import MethodTable
from policies.plan_versions import Proration


class Dialect(StrEnum):
    """How refusals are written and outcomes are read on a route."""

    OTAPI = "otapi"
    TOP = "top"
    PROBLEM = "problem"


class Source(StrEnum):
    """A kind of place in a request where a key or a method name stands."""

    QUERY = "query"
    FORM = "form"
    HEADER = "header"
    BEARER = "bearer"
    AWS_CREDENTIAL = "aws_credential"
    PATH = "path"
    SOAP = "soap"
    JSON_RPC = "json_rpc"


class KeyOut(StrEnum):
    """What happens to the client's key on its way to the upstream."""

    PASS = "pass"  # noqa: S105 - a way of doing, no password
    STRIP = "strip"
    REPLACE = "replace"


class UnknownMethods(StrEnum):
    """What happens to a call whose method no rule knows."""

    REFUSE = "refuse"
    ALLOW = "allow"


class OnCounterFailure(StrEnum):
    """What happens to a call that cannot be counted because Redis is away."""

    CLOSED = "closed"
    OPEN = "open"


class AccessLog(StrEnum):
    """Which calls are written to the log."""

    ALL = "all"
    REFUSED = "refused"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, such as `query:instanceKey`; `name` is empty for sources that need none.

    `path` alone is the last segment; for REST routes `path:full` is the HTTP method and the path, such as
    `GET /v1/items`.
    """

    source: Source
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a listener's certificate; `client_ca_file` turns on mutual TLS."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """The `[server]` table."""

    proxy_host: str
    proxy_port: int
    control_host: str
    control_port: int
    workers: int
    proxy_tls: Tls | None
    control_tls: Tls | None
    max_connections: int  # per worker
    max_head_bytes: int  # request line and headers together
    max_headers: int
    head_timeout_s: float  # from the first byte of a request to the end of its headers
    body_timeout_s: float  # longest silence while a request body is awaited
    min_body_rate: int  # bytes per second, below which a body is too slow
    max_buffered_bytes: int  # per worker, of request bodies that have not come whole
    idle_timeout_s: float  # keep-alive connection without a request
    drain_s: float  # longest wait for calls under way when stopping
    leave_s: float  # between saying that this gateway leaves and taking no new calls
    health_path: str | None  # where a worker says how it does, to whoever asks
    cached_keys: int  # records kept by a worker
    trusted_proxies: tuple[str, ...] = ()  # networks whose word on the client's address is believed
    proxy_protocol: bool = False  # they begin each connection to the proxy port with a PROXY header


@dataclass(frozen=True, slots=True)
class Stores:
    """The `[stores]` table; a URL of None means the embedded server."""

    redis_url: str | None
    database_url: str | None
    data_dir: Path
    redis_timeout_s: float
    redis_replicas: int  # that have what was counted before the call goes on
    counter_deadline_s: float  # how long a call may wait for its count before it is refused
    counter_retention_days: int
    open_allowance: int  # units of a key per worker and outage, on routes that are open
    journal_max_bytes: int  # per worker


@dataclass(frozen=True, slots=True)
class Seller:
    """The `[billing.seller]` table: what an invoice says of who sends it."""

    name: str = ""
    address: tuple[str, ...] = ()  # lines
    pay_to: tuple[str, ...] = ()  # lines that say how to pay
    contact: str = ""


@dataclass(frozen=True, slots=True)
class Billing:
    """The parts of `[billing]` that are no terms of the contract."""

    currency: str
    seller: Seller
    issue_day: int  # of the following month, at the latest
    dispute_days: int
    disputed_counts_as_unpaid: bool
    minimum_proration: Proration
    notice_days: int  # between the announcement of a price and its coming into force


@dataclass(frozen=True, slots=True)
class Upstream:
    """One `[[upstreams]]` entry."""

    name: str
    host: str
    port: int
    tls: bool
    base_path: str  # put before the request's path, without a trailing slash; usually empty
    host_header: str
    ca_file: Path | None
    connect_timeout_s: float
    answer_timeout_s: float  # from the request's last byte to the answer's head, and between its parts
    idle_s: float  # an idle connection older than this is not used again
    max_connections: int  # per worker


@dataclass(frozen=True, slots=True)
class UpstreamCredential:
    """What takes the place of the client's key when a route says `key_out = "replace"`."""

    key: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)  # calls are signed anew with it


@dataclass(frozen=True, slots=True)
class Route:
    """One `[[routes]]` entry; the longest matching `path_prefix` wins."""

    path_prefix: str
    upstream: Upstream
    dialect: Dialect
    key_in: tuple[Place, ...]
    key_out: KeyOut
    credential: UpstreamCredential | None
    method_from: tuple[Place, ...]
    unknown_methods: UnknownMethods
    signed: bool  # OTAPI signatures are verified for keys that have a secret
    signature_skew_s: float
    max_body_bytes: int
    identify_body_bytes: int  # a body is buffered up to here when the key, the method or a rule needs it
    item_id_prefixes: tuple[tuple[str, str], ...]  # prefix of itemId -> Provider
    on_counter_failure: OnCounterFailure = OnCounterFailure.CLOSED


@dataclass(frozen=True, slots=True)
class Logging:
    """The `[logging]` table."""

    level: str
    access: AccessLog


@dataclass(frozen=True, slots=True)
class Security:
    """The `[security]` table; peppers by id, the first one is used for new keys."""

    peppers: tuple[tuple[str, bytes], ...] = field(repr=False)
    negative_cache_s: float = 10.0
    failures_allowed: int = 100  # of one address, within the window and in one worker
    failures_window_s: float = 60.0
    # They are in the data directory, as the configuration names none.
    peppers_are_generated: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Smtp:
    """The `[notices.smtp]` table: the server that takes e-mail."""

    host: str
    port: int
    security: str  # "tls" from the first byte, "starttls", or "none"
    sender: str
    username: str | None
    password: str | None = field(repr=False)
    ca_file: Path | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Notices:
    """The `[notices]` table; without `smtp` notices go to webhooks only."""

    smtp: Smtp | None
    days_before_a_step: int
    deliver_every_s: float
    webhook_timeout_s: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the configuration says; `cautions` is what of it is right and yet unwise."""

    server: Server
    stores: Stores
    security: Security
    billing: Billing
    contract: Contract
    upstreams: tuple[Upstream, ...]
    routes: tuple[Route, ...]
    methods: MethodTable
    logging: Logging
    rollup_every_s: float
    notices: Notices
    cautions: tuple[str, ...] = ()


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Return the settings that differ and that only a stop and a start takes over."""
    pairs: dict[str, Callable[[Settings], object]] = {
        "server.proxy_listen": lambda s: (s.server.proxy_host, s.server.proxy_port),
        "server.control_listen": lambda s: (s.server.control_host, s.server.control_port),
        "stores": lambda s: s.stores,
    }
    return [name for name, value in pairs.items() if value(old) != value(new)]
