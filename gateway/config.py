"""The configuration: read once at the edge, checked whole, and frozen into `gateway.settings`.

`load` names every error it finds at once, each by its place in the file and with what would be right, so that
a file is corrected in one go. Secrets come from files or the environment, never from the file itself.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from gateway import config_model as model
from gateway.settings import (
    Billing,
    Dialect,
    KeyOut,
    Logging,
    Route,
    Security,
    Server,
    Settings,
    Source,
    Stores,
    Tls,
    UnknownMethods,
    Upstream,
    UpstreamCredential,
)
from gateway.validation import findings, suggestion
from policies.decision import Contract
from policies.methods import OFFICIAL_SEARCH, MethodRule, MethodTable, Surcharge
from policies.plans import Plan
from policies.standing import EVERYTHING, Standing, Step, check_ladder
from policies.trial import TrialTerms

PEPPER_BYTES = 32
PEPPER_FILE = "pepper"
GENERATED_PEPPER_ID = "p1"
DEMO_UPSTREAM = "demo"

REDIS_URL, DATABASE_URL = "TALLYGATE_REDIS_URL", "TALLYGATE_DATABASE_URL"
DATA_DIR, DEMO_URL = "TALLYGATE_DATA_DIR", "TALLYGATE_DEMO_URL"

# Contract OT-8 and OT-10, which hold when the file says nothing of standing.
DEFAULT_STEPS = (
    Step(7, Standing.RESTRICTED, frozenset({"search", "support"}), frozenset({OFFICIAL_SEARCH})),
    Step(21, Standing.BANNED, frozenset({EVERYTHING})),
)
T = TypeVar("T", bound=model.Table)


class ConfigError(Exception):
    """The configuration cannot be used; `errors` says all that is wrong with it, one sentence each."""

    def __init__(self, source: str, errors: Sequence[str]) -> None:
        self.source = source
        self.errors = tuple(errors)
        count = "1 error" if len(self.errors) == 1 else f"{len(self.errors)} errors"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {error}" for error in self.errors))


def example_path() -> Path:
    """Return the path of the example, which serves the demo marketplace with embedded stores."""
    beside = Path(__file__).with_name("config.example.toml")
    return beside if beside.exists() else Path(__file__).parent.parent / "config.example.toml"


def load(path: Path | None, environ: Mapping[str, str], *, keep_pepper: bool = True) -> Settings:
    """Read the configuration at `path`, or the example without one; raise ConfigError that names every error.

    Relative paths in the file start at its directory, and at the working directory without a file. A pepper
    that the file does not name is generated once into the data directory; with `keep_pepper` False it is made
    but not written.
    """
    source = str(path) if path is not None else "the built-in configuration"
    try:
        text = (path or example_path()).read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(source, [f"cannot be read: {error.strerror or error}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(source, [f"is not TOML: {error}"]) from error
    reader = _Reader(raw, path.parent if path is not None else Path.cwd(), environ, keep_pepper)
    settings = reader.settings()
    if settings is None:
        raise ConfigError(source, reader.errors)
    return settings


class _Reader:
    """One reading of a file; `errors` fills up on the way, and with any of them nothing is built."""

    def __init__(
        self, raw: dict[str, Any], base: Path, environ: Mapping[str, str], keep_pepper: bool
    ) -> None:
        self.raw = raw
        self.base = base
        self.environ = environ
        self.keep_pepper = keep_pepper
        self.errors: list[str] = []

    def settings(self) -> Settings | None:
        """Return the settings, or None when there are errors."""
        known = {"server", "stores", "security", "billing", "metering", "logging"}
        known |= {"plans", "upstreams", "routes", "methods"}
        for name in sorted(self.raw.keys() - known):
            self.errors.append(f"{name}: is unknown{suggestion(name, known)}")
        server = self.table("server", model.ServerTable)
        stores = self.table("stores", model.StoresTable)
        security = self.table("security", model.SecurityTable)
        billing = self.table("billing", model.BillingTable)
        metering = self.table("metering", model.MeteringTable)
        logging = self.table("logging", model.LoggingTable)
        plans = self.plans()
        rules = self.methods()
        upstreams = self.upstreams()
        routes = self.routes(upstreams, rules)
        classes = {rule.klass for rule in rules} | {OFFICIAL_SEARCH}
        self.check_plans(plans, rules, classes)
        steps = self.steps(billing, classes)
        zone = self.zone(billing)
        proxy_tls = self.tls("server.proxy_tls", server.proxy_tls if server else None)
        control_tls = self.tls("server.control_tls", server.control_tls if server else None)
        data_dir = self.data_dir(stores)
        if server and server.proxy_listen == server.control_listen:
            self.errors.append("server.control_listen: must differ from server.proxy_listen")
        peppers = self.peppers(security, data_dir)
        if self.errors or not (server and stores and security and billing and metering and logging and zone):
            return None
        proxy_host, proxy_port = model.address_of(server.proxy_listen)
        control_host, control_port = model.address_of(server.control_listen)
        return Settings(
            server=Server(
                proxy_host=proxy_host,
                proxy_port=proxy_port,
                control_host=control_host,
                control_port=control_port,
                workers=server.workers,
                proxy_tls=proxy_tls,
                control_tls=control_tls,
                max_connections=server.max_connections,
                max_head_bytes=server.max_head_bytes,
                max_headers=server.max_headers,
                head_timeout_s=server.head_timeout_s,
                body_timeout_s=server.body_timeout_s,
                idle_timeout_s=server.idle_timeout_s,
                drain_s=server.drain_s,
                cached_keys=server.cached_keys,
            ),
            stores=Stores(
                redis_url=_url(self.environ.get(REDIS_URL) or stores.redis),
                database_url=_url(self.environ.get(DATABASE_URL) or stores.database),
                data_dir=data_dir,
                redis_timeout_s=stores.redis_timeout_s,
                counter_deadline_s=stores.counter_deadline_s,
                counter_retention_days=stores.counter_retention_days,
            ),
            security=Security(peppers, security.negative_cache_s),
            billing=Billing(billing.currency),
            contract=Contract(
                zone=zone,
                plans=plans,
                steps=steps,
                trial=TrialTerms(billing.trial.within_days, billing.trial.months, billing.trial.daily_limit),
            ),
            upstreams=tuple(upstream for upstream in upstreams.values() if upstream is not None),
            routes=tuple(routes),
            methods=MethodTable(rules),
            logging=Logging(logging.level, logging.access),
            rollup_every_s=metering.rollup_every_s,
        )

    def table(self, name: str, kind: type[T]) -> T | None:
        """Read one of the file's single tables; a missing one has its defaults."""
        return self.validated(kind, self.raw.get(name, {}), name)

    def entries(self, name: str, kind: type[T], label: str) -> Iterable[tuple[str, Any, T | None]]:
        """Read a list of tables as (place for messages, raw entry, entry or None when it has errors)."""
        raw = self.raw.get(name, [])
        if not isinstance(raw, list):
            self.errors.append(f"{name}: must be a list of tables, written [[{name}]]")
            return
        for number, entry in enumerate(raw, 1):
            named = entry.get(label) if isinstance(entry, dict) else None
            named = named[0] if isinstance(named, list) and named else named
            place = f'{name}["{named}"]' if isinstance(named, str) else f"{name}[{number}]"
            yield place, entry, self.validated(kind, entry, place)

    def validated(self, kind: type[T], raw: object, place: str) -> T | None:
        """Check one table against its model, taking down what is wrong."""
        try:
            return kind.model_validate(raw)
        except ValidationError as error:
            for finding in findings(kind, error):
                joint = "." if finding.place and not finding.place.startswith("[") else ""
                self.errors.append(f"{place}{joint}{finding.place}: {finding.message}")
            return None

    def plans(self) -> dict[str, Plan]:
        """Read `[plans.*]`."""
        raw = self.raw.get("plans", {})
        if not isinstance(raw, dict) or not raw:
            self.errors.append("plans: at least one is needed, such as [plans.K1] with daily_limit = 100000")
            return {}
        plans = {}
        for name, entry in raw.items():
            table = self.validated(model.PlanTable, entry, f"plans.{name}")
            if table is None:
                continue
            if table.unlimited == (table.daily_limit is not None):
                self.errors.append(f"plans.{name}: must have either daily_limit = N or unlimited = true")
            plans[name] = Plan(
                name=name,
                daily_limit=table.daily_limit,
                window=table.window,
                sandbox=table.sandbox,
                methods=frozenset(table.methods) if table.methods is not None else None,
                lifetime_months=table.lifetime_months,
            )
        return plans

    def check_plans(self, plans: Mapping[str, Plan], rules: Sequence[MethodRule], classes: set[str]) -> None:
        """A plan that allows a method by a wrong name would quietly allow nothing."""
        names = {name for rule in rules for name in rule.match}
        for plan in plans.values():
            for entry in sorted(plan.methods or ()):
                known = {f"class:{name}" for name in classes} if entry.startswith("class:") else names
                if entry not in known:
                    place = f"plans.{plan.name}.methods"
                    self.errors.append(f"{place}: no [[methods]] knows {entry!r}{suggestion(entry, known)}")

    def methods(self) -> tuple[MethodRule, ...]:
        """Read `[[methods]]`."""
        rules = []
        owners: dict[str, str] = {}
        for place, _, table in self.entries("methods", model.MethodsTable, "class"):
            if table is None:
                continue
            for name in table.match:
                if name.lower() in owners:
                    self.errors.append(f"{place}.match: {name!r} already stands in {owners[name.lower()]}")
                owners.setdefault(name.lower(), place)
            if table.cost == 0 and table.cost_items is None and table.billable:
                self.errors.append(f"{place}.cost: must be 1 or more for a paid method without cost_items")
            provider, _, search_method = (table.official or "").partition("/")
            rules.append(
                MethodRule(
                    match=tuple(table.match),
                    klass=table.klass,
                    billable=table.billable,
                    cost=table.cost,
                    cost_items=table.cost_items,
                    official=(provider, search_method) if table.official else None,
                    read=tuple(table.read),
                    surcharges=tuple(
                        Surcharge(entry.parameter, entry.equals, entry.cost, dict(entry.by_provider))
                        for entry in table.surcharges
                    ),
                )
            )
        return tuple(rules)

    def upstreams(self) -> dict[str, Upstream | None]:
        """Read `[[upstreams]]` by name; one with errors is None, so that its routes are not blamed too."""
        upstreams: dict[str, Upstream | None] = {}
        for place, raw, table in self.entries("upstreams", model.UpstreamTable, "name"):
            name = raw.get("name") if isinstance(raw, dict) else None
            if isinstance(name, str):
                if name in upstreams:
                    self.errors.append(f"{place}: another upstream has this name already")
                upstreams[name] = self.upstream(place, table) if table is not None else None
        if not self.raw.get("upstreams"):
            self.errors.append("upstreams: at least one [[upstreams]] entry is needed")
        return upstreams

    def upstream(self, place: str, table: model.UpstreamTable) -> Upstream:
        """Build one upstream from its table."""
        base_url = table.base_url
        if table.name == DEMO_UPSTREAM:
            base_url = self.environ.get(DEMO_URL) or base_url
        parts = urlsplit(base_url)
        tls = parts.scheme == "https"
        if table.ca_file is not None and not tls:
            self.errors.append(f"{place}.ca_file: has no use, as base_url does not begin with https://")
        return Upstream(
            name=table.name,
            host=parts.hostname or "",
            port=parts.port or (443 if tls else 80),
            tls=tls,
            base_path=parts.path.rstrip("/"),
            host_header=table.host_header or parts.netloc,
            ca_file=self.file(f"{place}.ca_file", table.ca_file),
            connect_timeout_s=table.connect_timeout_s,
            answer_timeout_s=table.answer_timeout_s,
            idle_s=table.idle_s,
            max_connections=table.max_connections,
        )

    def routes(self, upstreams: Mapping[str, Upstream | None], rules: Sequence[MethodRule]) -> list[Route]:
        """Read `[[routes]]`."""
        routes = []
        prefixes: set[str] = set()
        for place, _, table in self.entries("routes", model.RouteTable, "path_prefix"):
            if table is None:
                continue
            if table.path_prefix in prefixes:
                self.errors.append(f"{place}: another route has this path_prefix already")
            prefixes.add(table.path_prefix)
            if table.upstream not in upstreams:
                hint = suggestion(table.upstream, upstreams)
                self.errors.append(f"{place}.upstream: there is no upstream {table.upstream!r}{hint}")
            if table.unknown_methods is UnknownMethods.REFUSE and not rules:
                self.errors.append(
                    f'{place}.unknown_methods: refuses all without [[methods]]; add some or say "allow"'
                )
            self.check_route(place, table)
            credential = self.credential(place, table)
            upstream = upstreams.get(table.upstream)
            if upstream is not None:
                routes.append(
                    Route(
                        path_prefix=table.path_prefix,
                        upstream=upstream,
                        dialect=table.dialect,
                        key_in=tuple(model.place_of(text) for text in table.key_in),
                        key_out=table.key_out,
                        credential=credential,
                        method_from=tuple(model.place_of(text) for text in table.method_from),
                        unknown_methods=table.unknown_methods,
                        signed=table.signed,
                        signature_skew_s=table.signature_skew_s,
                        max_body_bytes=table.max_body_bytes,
                        identify_body_bytes=table.identify_body_bytes,
                        item_id_prefixes=tuple(table.item_id_prefixes.items()),
                    )
                )
        if not self.raw.get("routes"):
            self.errors.append("routes: at least one [[routes]] entry is needed")
        return routes

    def check_route(self, place: str, table: model.RouteTable) -> None:
        """Take down what does not go together in one route."""
        not_keys = {Source.PATH, Source.SOAP, Source.JSON_RPC}
        not_methods = {Source.BEARER, Source.AWS_CREDENTIAL}
        for text in table.key_in:
            if model.place_of(text).source in not_keys:
                self.errors.append(f"{place}.key_in: a key cannot stand in {text!r}")
        for text in table.method_from:
            if model.place_of(text).source in not_methods:
                self.errors.append(f"{place}.method_from: a method cannot stand in {text!r}")
        if table.signed and table.dialect is not Dialect.OTAPI:
            self.errors.append(f'{place}.signed: signatures are known for dialect = "otapi" only')
        if table.identify_body_bytes > table.max_body_bytes:
            self.errors.append(f"{place}.identify_body_bytes: must not be larger than max_body_bytes")

    def credential(self, place: str, table: model.RouteTable) -> UpstreamCredential | None:
        """Read the key that takes the place of the client's."""
        source = table.credential
        if table.key_out is not KeyOut.REPLACE:
            if source is not None:
                self.errors.append(f'{place}.credential: is used only with key_out = "replace"')
            return None
        if source is None:
            self.errors.append(f'{place}.credential: key_out = "replace" needs key_env or key_file here')
            return None
        place = f"{place}.credential"
        key = self.secret(place, "key", source.key_env, source.key_file)
        if source.secret_env is None and source.secret_file is None:
            return UpstreamCredential(key)
        return UpstreamCredential(key, self.secret(place, "secret", source.secret_env, source.secret_file))

    def steps(self, billing: model.BillingTable | None, classes: set[str]) -> tuple[Step, ...]:
        """Read the ladder of standing, in rising order of days."""
        if billing is None or billing.standing is None:
            return DEFAULT_STEPS
        steps = []
        for number, table in enumerate(billing.standing, 1):
            place = f"billing.standing[{number}]"
            for name in [*table.deny, *table.exempt]:
                if name != EVERYTHING and name not in classes:
                    hint = suggestion(name, classes)
                    self.errors.append(f"{place}: no [[methods]] has the class {name!r}{hint}")
            steps.append(
                Step(
                    after_days=table.after_days,
                    standing=Standing(table.standing),
                    deny=frozenset(table.deny),
                    exempt=frozenset(table.exempt),
                )
            )
        try:
            check_ladder(tuple(steps))
        except ValueError as error:
            self.errors.append(f"billing.standing: {error}")
        return tuple(steps)

    def zone(self, billing: model.BillingTable | None) -> ZoneInfo | None:
        """Look the billing timezone up."""
        if billing is None:
            return None
        try:
            return ZoneInfo(billing.timezone)
        except (OSError, ValueError, KeyError):  # ZoneInfo raises each of them for some wrong names
            self.errors.append(
                f"billing.timezone: {billing.timezone!r} is no timezone; one is Europe/Moscow, another UTC"
            )
            return None

    def tls(self, place: str, table: model.TlsTable | None) -> Tls | None:
        """Check that a certificate's files can be read."""
        if table is None:
            return None
        cert = self.file(f"{place}.cert_file", table.cert_file)
        key = self.file(f"{place}.key_file", table.key_file)
        client_ca = self.file(f"{place}.client_ca_file", table.client_ca_file)
        return Tls(cert, key, client_ca) if cert is not None and key is not None else None

    def data_dir(self, stores: model.StoresTable | None) -> Path:
        """Return the data directory, absolute; one from the environment starts at the working directory."""
        if self.environ.get(DATA_DIR):
            return Path(self.environ[DATA_DIR]).absolute()
        return (self.base / (stores.data_dir if stores is not None else "data")).absolute()

    def peppers(self, security: model.SecurityTable | None, data_dir: Path) -> tuple[tuple[str, bytes], ...]:
        """Return the peppers by id, generating the only one when the file names none."""
        if security is None or self.errors:
            return ()
        if not security.peppers:
            return ((GENERATED_PEPPER_ID, self.generated_pepper(data_dir / PEPPER_FILE)),)
        peppers: dict[str, bytes] = {}
        for table in security.peppers:
            place = f'security.peppers["{table.id}"]'
            if table.id in peppers:
                self.errors.append(f"{place}: another pepper has this id already")
            pepper = self.secret(place, "value", table.value_env, table.value_file).encode()
            if pepper and len(pepper) < PEPPER_BYTES:
                self.errors.append(
                    f"{place}: has {len(pepper)} bytes; it needs {PEPPER_BYTES} random ones or more"
                )
            peppers[table.id] = pepper
        return tuple(peppers.items())

    def generated_pepper(self, path: Path) -> bytes:
        """Return the pepper kept in the data directory, made on the first start."""
        fresh = secrets.token_hex(PEPPER_BYTES)
        try:
            if self.keep_pepper and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                # Written aside and linked in place: two processes that start together read one whole pepper.
                draft = path.with_name(f".{PEPPER_FILE}-{os.getpid()}-{secrets.token_hex(4)}")
                draft.touch(mode=0o600, exist_ok=False)
                draft.write_text(fresh, encoding="ascii")
                try:
                    os.link(draft, path)
                except FileExistsError:
                    pass  # the other process was first: its pepper counts
                finally:
                    draft.unlink()
            if not path.exists():
                return fresh.encode()
            pepper = path.read_bytes().strip()
        except OSError as error:
            self.errors.append(f"stores.data_dir: no pepper can be kept in {path}: {error.strerror or error}")
            return b""
        if len(pepper) < PEPPER_BYTES:
            self.errors.append(
                f"stores.data_dir: the pepper in {path} is damaged: only {len(pepper)} bytes long"
            )
        return pepper

    def secret(self, place: str, name: str, variable: str | None, path: Path | None) -> str:
        """Read a secret from exactly one of an environment variable and a file."""
        if (variable is None) == (path is None):
            self.errors.append(f"{place}: must have exactly one of {name}_env and {name}_file")
            return ""
        if variable is not None:
            value = self.environ.get(variable, "").strip()
            if not value:
                self.errors.append(f"{place}.{name}_env: the environment variable {variable} is not set")
            return value
        found = self.file(f"{place}.{name}_file", path)
        value = found.read_text(encoding="utf-8", errors="replace").strip() if found is not None else ""
        if found is not None and not value:
            self.errors.append(f"{place}.{name}_file: {found} is empty")
        return value

    def file(self, place: str, path: Path | None) -> Path | None:
        """Return a file's absolute path after checking that it can be read."""
        if path is None:
            return None
        absolute = (self.base / path).absolute()
        if not absolute.is_file() or not os.access(absolute, os.R_OK):
            self.errors.append(f"{place}: {absolute} is no file that can be read")
            return None
        return absolute


def _url(text: str) -> str | None:
    return None if text == model.EMBEDDED else text
