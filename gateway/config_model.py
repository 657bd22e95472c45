"""The shape of the configuration file: which settings exist, their types, defaults and bounds.

Every model refuses unknown settings. What takes several settings to judge is checked in `gateway.config`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.addresses import email_address
from gateway.settings import AccessLog, Dialect, KeyOut, OnCounterFailure, Place, Source, UnknownMethods
from metering.clients import check_url
from policies.allow_lists import network_of
from policies.plan_versions import Proration
from policies.quota import Window

EMBEDDED = "embedded"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_CLASS = re.compile(r"[a-z][a-z0-9_]*\Z")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)\Z")
_NAMED = {Source.QUERY, Source.FORM, Source.HEADER}


def place_of(text: str) -> Place:
    """Read `query:instanceKey` or `bearer`; raises ValueError that shows the right forms."""
    kind, _, name = text.partition(":")
    try:
        source = Source(kind)
    except ValueError:
        known = ", ".join(source + ":NAME" if source in _NAMED else source for source in Source)
        raise ValueError(f"{text!r} is no place in a request; places are {known}") from None
    if source in _NAMED and not name:
        raise ValueError(f'{text!r} needs a name, as in "{source}:instanceKey"')
    if source is Source.PATH and name not in ("", "full"):
        raise ValueError(f'{text!r} must be "path" (the last segment) or "path:full" (HTTP method and path)')
    if source not in _NAMED and source is not Source.PATH and name:
        raise ValueError(f'{text!r} takes no name: write "{source}"')
    return Place(source, name)


def address_of(text: str) -> tuple[str, int]:
    """Read `host:port`; raises ValueError that shows the right form."""
    host, _, port = text.rpartition(":")
    if not _HOST.match(host) or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"must be host:port with a port of 1 to 65535, such as 127.0.0.1:8080, not {text!r}")
    return host.strip("[]"), int(port)


def _address(text: str) -> str:
    address_of(text)
    return text


def _class_name(text: str) -> str:
    if not _CLASS.match(text):
        raise ValueError("must be a lower-case word such as search or official_search")
    return text


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"must be a URL such as https://api.example.com ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(
            "must begin with http:// or https:// and name a host, such as https://api.example.com"
        )
    if parts.username or parts.query or parts.fragment:
        raise ValueError("must be scheme, host, port and path only: no user, query or fragment")
    return text


def _store_url(schemes: tuple[str, ...]) -> AfterValidator:
    def check(text: str) -> str:
        # The text itself is not shown: a store's URL may hold a password.
        if text != EMBEDDED and not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            known = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f'must be "{EMBEDDED}" or a URL that begins with {known}')
        return text

    return AfterValidator(check)


def _redis_url(text: str) -> str:
    if text != EMBEDDED:
        try:
            check_url(text)
        except ValueError as error:
            raise ValueError(f'must be "{EMBEDDED}" or a URL of Redis: {error}') from None
    return text


def _place(text: str) -> str:
    place_of(text)
    return text


def _method_name(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("must not hold control characters")
    return text


Address = Annotated[str, AfterValidator(_address)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
ClassName = Annotated[str, AfterValidator(_class_name)]
MethodName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_method_name)]
PlaceText = Annotated[str, AfterValidator(_place)]
File = Annotated[Path, Field(strict=False)]
Seconds = Annotated[float, Field(ge=0.01, le=86_400)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Table(BaseModel):
    """A table of the file: unknown settings are refused, and types are not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TlsTable(Table):
    """`[server.proxy_tls]` and `[server.control_tls]`."""

    cert_file: File
    key_file: File
    client_ca_file: File | None = None


class ServerTable(Table):
    """`[server]`."""

    proxy_listen: Address = "127.0.0.1:8080"
    control_listen: Address = "127.0.0.1:8081"
    workers: int = Field(default_factory=lambda: min(os.cpu_count() or 1, 8), ge=1, le=256)
    proxy_tls: TlsTable | None = None
    control_tls: TlsTable | None = None
    max_connections: int = Field(10_000, ge=1, le=1_000_000)
    max_head_bytes: int = Field(64 * KIB, ge=KIB, le=MIB)
    max_headers: int = Field(100, ge=8, le=1_000)
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    min_body_rate: int = Field(500, ge=1, le=1_000_000_000)
    max_buffered_bytes: int = Field(256 * MIB, ge=MIB, le=1024 * 1024 * MIB)
    idle_timeout_s: Seconds = 75.0
    drain_s: Seconds = 30.0
    leave_s: float = Field(0.0, ge=0, le=600)
    health_path: str = Field("/.well-known/tallygate", pattern=r"^(/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-])?$")
    cached_keys: int = Field(100_000, ge=1, le=10_000_000)
    trusted_proxies: list[Annotated[str, AfterValidator(network_of)]] = Field(default=[], max_length=256)
    proxy_protocol: bool = False


class StoresTable(Table):
    """`[stores]`."""

    redis: Annotated[str, AfterValidator(_redis_url)] = EMBEDDED
    database: Annotated[str, _store_url(("postgresql", "postgres", "postgresql+asyncpg"))] = EMBEDDED
    data_dir: File = Path("data")
    redis_timeout_s: Seconds = 0.5
    redis_replicas: int = Field(0, ge=0, le=10)
    counter_deadline_s: Annotated[float, Field(ge=0.01, le=60)] = 1.0
    counter_retention_days: int = Field(35, ge=3, le=400)
    open_allowance: int = Field(1000, ge=1, le=2**53 - 1)
    journal_max_bytes: int = Field(64 * MIB, ge=MIB, le=64 * GIB)


class PepperTable(Table):
    """One `[[security.peppers]]`."""

    id: Name
    value_env: str | None = None
    value_file: File | None = None


class SecurityTable(Table):
    """`[security]`."""

    negative_cache_s: float = Field(10.0, ge=0, le=10)
    failures_allowed: int = Field(100, ge=1, le=1_000_000)
    failures_window_s: float = Field(60.0, ge=1, le=3_600)
    peppers: list[PepperTable] = []


class StandingTable(Table):
    """One `[[billing.standing]]`."""

    after_days: int = Field(ge=0, le=3_650)
    standing: Literal["restricted", "banned"] = "restricted"
    deny: list[Literal["*"] | ClassName] = Field(min_length=1)
    exempt: list[ClassName] = Field(default=[], alias="except")


class TrialTable(Table):
    """`[billing.trial]`."""

    within_days: int = Field(7, ge=0, le=365)
    months: int = Field(1, ge=0, le=24)
    daily_limit: int = Field(100_000, ge=0, le=2**53 - 1)


class SellerTable(Table):
    """`[billing.seller]`."""

    name: Annotated[str, Field(max_length=200)] = ""
    address: list[Annotated[str, Field(max_length=200)]] = Field(default=[], max_length=10)
    pay_to: list[Annotated[str, Field(max_length=200)]] = Field(default=[], max_length=10)
    contact: Annotated[str, Field(max_length=200)] = ""


class BillingTable(Table):
    """`[billing]`."""

    timezone: str = "Europe/Moscow"
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    trial: TrialTable = Field(default_factory=lambda: TrialTable.model_validate({}))
    standing: list[StandingTable] | None = None
    issue_day: int = Field(10, ge=1, le=28)
    dispute_days: int = Field(30, ge=0, le=3_650)
    disputed_counts_as_unpaid: bool = False
    minimum_proration: Annotated[Proration, Field(strict=False)] = Proration.DAILY
    notice_days: int = Field(30, ge=0, le=3_650)
    seller: SellerTable = Field(default_factory=lambda: SellerTable.model_validate({}))


class MeteringTable(Table):
    """`[metering]`."""

    rollup_every_s: float = Field(5.0, ge=0.1, le=3_600)


class LoggingTable(Table):
    """`[logging]`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: Annotated[AccessLog, Field(strict=False)] = AccessLog.REFUSED


class SmtpTable(Table):
    """`[notices.smtp]`."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
    port: int = Field(587, ge=1, le=65535)
    security: Literal["tls", "starttls", "none"] = "starttls"
    sender: Annotated[str, AfterValidator(email_address)]
    username: str | None = None
    password_env: str | None = None
    password_file: File | None = None
    ca_file: File | None = None
    timeout_s: Annotated[float, Field(ge=1, le=300)] = 30.0


class NoticesTable(Table):
    """`[notices]`."""

    smtp: SmtpTable | None = None
    days_before_a_step: int = Field(3, ge=0, le=365)
    deliver_every_s: float = Field(2.0, ge=0.1, le=3_600)
    webhook_timeout_s: Annotated[float, Field(ge=1, le=60)] = 15.0


class PlanTable(Table):
    """One `[plans.NAME]`."""

    daily_limit: int | None = Field(None, ge=0, le=2**53 - 1)
    unlimited: bool = False
    window: Annotated[Window, Field(strict=False)] = Window.DAY
    sandbox: bool = False
    methods: list[str] | None = None
    lifetime_months: int | None = Field(None, ge=1, le=1_200)


class UpstreamTable(Table):
    """One `[[upstreams]]`."""

    name: Name
    base_url: BaseUrl
    host_header: Annotated[str, Field(pattern=r"^[\x21-\x7e]+$")] | None = None
    ca_file: File | None = None
    connect_timeout_s: Seconds = 5.0
    answer_timeout_s: Seconds = 60.0
    idle_s: Seconds = 15.0
    max_connections: int = Field(512, ge=1, le=100_000)


class CredentialTable(Table):
    """`[routes.credential]`."""

    key_env: str | None = None
    key_file: File | None = None
    secret_env: str | None = None
    secret_file: File | None = None


class RouteTable(Table):
    """One `[[routes]]`."""

    path_prefix: Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$")]
    upstream: str
    dialect: Annotated[Dialect, Field(strict=False)] = Dialect.PROBLEM
    key_in: list[PlaceText] = Field(min_length=1)
    key_out: Annotated[KeyOut, Field(strict=False)] = KeyOut.STRIP
    credential: CredentialTable | None = None
    method_from: list[PlaceText] = Field(["path"], min_length=1)
    unknown_methods: Annotated[UnknownMethods, Field(strict=False)] = UnknownMethods.REFUSE
    signed: bool = False
    signature_skew_s: Annotated[float, Field(ge=1, le=86_400)] = 3_600.0
    max_body_bytes: int = Field(GIB, ge=0, le=1 << 40)
    identify_body_bytes: int = Field(MIB, ge=0, le=64 * MIB)
    item_id_prefixes: dict[str, str] = {}
    on_counter_failure: Annotated[OnCounterFailure, Field(strict=False)] = OnCounterFailure.CLOSED


class SurchargeTable(Table):
    """One entry of `surcharges`."""

    parameter: str = Field(min_length=1)
    equals: str = "true"
    cost: int = Field(ge=1, le=1_000_000)
    by_provider: dict[str, Annotated[int, Field(ge=1, le=1_000_000)]] = {}


class MethodsTable(Table):
    """One `[[methods]]`."""

    match: list[MethodName] = Field(min_length=1)
    klass: ClassName = Field(alias="class")
    billable: bool = False
    cost: int = Field(1, ge=0, le=1_000_000)
    cost_items: str | None = None
    official: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")] | None = None
    read: list[str] = []
    surcharges: list[SurchargeTable] = []
