"""The configuration: read once at the edge, checked whole, and frozen into `gateway.settings`.

`load` names every error it finds at once, each by its place in the file and with what would be right, so that
a file is corrected in one go. Secrets come from files or the environment, never from the file itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway import config_model as model
from gateway.config_contract import Terms
from gateway.config_files import PEPPER_BYTES, Files
from gateway.config_routes import Routing
from gateway.config_tables import Tables
from gateway.copies import Copies, Originals
from gateway.passwords import without_passwords
from gateway.settings import (
    Billing,
    Logging,
    Notices,
    Security,
    Seller,
    Server,
    Settings,
    Smtp,
    Stores,
)
from gateway.validation import suggestion
from metering.clients import may_fail_over
from policies.decision import Contract
from policies.methods import OFFICIAL_SEARCH, MethodTable
from policies.trial import TrialTerms

TOKEN_FILE = "control-token"  # noqa: S105 - a file's name
UNCONFIRMED = (
    "stores.redis_replicas: with 0 a master that dies takes the counts along that its replica did not have "
    "yet; with 1 a call goes on only when a replica has its count"
)

REDIS_URL, DATABASE_URL = "TALLYGATE_REDIS_URL", "TALLYGATE_DATABASE_URL"
DATA_DIR, DEMO_URL = "TALLYGATE_DATA_DIR", "TALLYGATE_DEMO_URL"
# Of the program's own processes: a directory of copies that are read in place of files (`gateway.copies`).
KEPT = "TALLYGATE_KEPT_CONFIG"


class ConfigError(Exception):
    """The configuration cannot be used; `errors` says all that is wrong with it, one sentence each."""

    def __init__(self, source: str, errors: Sequence[str]) -> None:
        self.source = source
        self.errors = tuple(errors)
        count = "1 error" if len(self.errors) == 1 else f"{len(self.errors)} errors"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {error}" for error in self.errors))


def example_path() -> Path:
    """Return the path of the example, which serves the demo marketplace with embedded stores."""
    return shipped("config.example.toml")


def catalogue_example_path() -> Path:
    """Return the path of the example of price lists."""
    return shipped("catalogue.example.toml")


def shipped(name: str) -> Path:
    """Return the path of a file that a wheel has beside this module and a checkout at its root."""
    beside = Path(__file__).with_name(name)
    return beside if beside.exists() else Path(__file__).parent.parent / name


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    keep_pepper: bool = True,
    files: Originals | None = None,
) -> Settings:
    """Read the configuration at `path`, or the example without one; raise ConfigError that names every error.

    Relative paths in the file start at its directory, and at the working directory without a file. A pepper
    that the file does not name is generated once into the data directory; with `keep_pepper` False it is made
    but not written. `files` says from where all files are read; by default from where they stand, or from the
    copies that the environment names.
    """
    source = str(path) if path is not None else "the built-in configuration"
    try:
        if files is None:
            files = Copies(Path(environ[KEPT])) if KEPT in environ else Originals()
        raw = tomllib.loads(files.config(path or example_path()))
    except OSError as error:
        raise ConfigError(source, [f"cannot be read: {error.strerror or error}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(source, [f"is not TOML: {error}"]) from error
    reader = _Reader(raw, path.parent if path is not None else Path.cwd(), environ, files, keep_pepper)
    if path is not None and _holds_password(raw):
        reader.files.guarded("stores", path)
    settings = reader.settings()
    if settings is None:
        raise ConfigError(source, reader.errors)
    return settings


class _Reader:
    """One reading of a file; with any error, nothing is built."""

    def __init__(
        self,
        raw: dict[str, Any],
        base: Path,
        environ: Mapping[str, str],
        files: Originals,
        keep_pepper: bool,
    ) -> None:
        self.tables = Tables(raw)
        self.errors = self.tables.errors
        self.files = Files(base, environ, self.errors, files)
        self.base = base
        self.environ = environ
        self.keep_pepper = keep_pepper

    def settings(self) -> Settings | None:
        """Return the settings, or None when there are errors."""
        known = {"server", "stores", "security", "billing", "metering", "logging", "notices"}
        known |= {"plans", "upstreams", "routes", "methods"}
        for name in sorted(self.tables.raw.keys() - known):
            self.errors.append(f"{name}: is unknown{suggestion(name, known)}")
        server = self.tables.table("server", model.ServerTable)
        stores = self.tables.table("stores", model.StoresTable)
        for variable, name in ((REDIS_URL, "redis"), (DATABASE_URL, "database")):
            if url := self.environ.get(variable):
                self.tables.validated(model.StoresTable, {name: url}, f"{variable} for stores")
        security = self.tables.table("security", model.SecurityTable)
        billing = self.tables.table("billing", model.BillingTable)
        metering = self.tables.table("metering", model.MeteringTable)
        logging = self.tables.table("logging", model.LoggingTable)
        notices = self.tables.table("notices", model.NoticesTable)
        terms = Terms(self.tables)
        plans = terms.plans()
        rules = terms.methods()
        routing = Routing(self.tables, self.files, self.environ.get(DEMO_URL))
        upstreams = routing.upstreams()
        routes = routing.routes(upstreams, rules)
        classes = {rule.klass for rule in rules} | {OFFICIAL_SEARCH}
        terms.check_plans(plans, rules, classes)
        steps = terms.steps(billing, classes)
        zone = terms.zone(billing)
        proxy_tls = self.files.tls("server.proxy_tls", server.proxy_tls if server else None)
        control_tls = self.files.tls("server.control_tls", server.control_tls if server else None)
        smtp = self.smtp(notices)
        data_dir = self.data_dir(stores)
        if server and server.proxy_listen == server.control_listen:
            self.errors.append("server.control_listen: must differ from server.proxy_listen")
        if server and server.proxy_protocol and not server.trusted_proxies:
            self.errors.append(
                "server.proxy_protocol: is believed of trusted_proxies only; name their networks there"
            )
        if server and server.health_path:
            for route in routes:
                if route.path_prefix != "/" and server.health_path.startswith(route.path_prefix):
                    self.errors.append(
                        f"server.health_path: lies in the route {route.path_prefix}; choose a path of no "
                        'route, or "" for none'
                    )
        peppers = self.peppers(security, data_dir)
        if self.errors or not (
            server and stores and security and billing and metering and logging and notices and zone
        ):
            return None
        redis_url = _url(self.environ.get(REDIS_URL) or stores.redis)
        if redis_url is not None and stores.redis_replicas == 0 and may_fail_over(redis_url):
            self.files.cautions.append(UNCONFIRMED)
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
                min_body_rate=server.min_body_rate,
                max_buffered_bytes=server.max_buffered_bytes,
                idle_timeout_s=server.idle_timeout_s,
                drain_s=server.drain_s,
                leave_s=server.leave_s,
                health_path=server.health_path or None,
                cached_keys=server.cached_keys,
                trusted_proxies=tuple(server.trusted_proxies),
                proxy_protocol=server.proxy_protocol,
            ),
            stores=Stores(
                redis_url=redis_url,
                database_url=_url(self.environ.get(DATABASE_URL) or stores.database),
                data_dir=data_dir,
                redis_timeout_s=stores.redis_timeout_s,
                redis_replicas=stores.redis_replicas,
                counter_deadline_s=stores.counter_deadline_s,
                counter_retention_days=stores.counter_retention_days,
                open_allowance=stores.open_allowance,
                journal_max_bytes=stores.journal_max_bytes,
            ),
            security=Security(
                peppers,
                security.negative_cache_s,
                security.failures_allowed,
                security.failures_window_s,
                peppers_are_generated=not security.peppers,
            ),
            billing=_billing(billing),
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
            notices=Notices(
                smtp, notices.days_before_a_step, notices.deliver_every_s, notices.webhook_timeout_s
            ),
            cautions=tuple(self.files.cautions),
        )

    def smtp(self, notices: model.NoticesTable | None) -> Smtp | None:
        """Read the server that takes e-mail."""
        if notices is None or notices.smtp is None:
            return None
        table, place = notices.smtp, "notices.smtp"
        password = None
        if table.username is not None:
            password = self.files.secret(place, "password", table.password_env, table.password_file)
            if table.security == "none":
                self.errors.append(f'{place}.username: a password is not sent with security = "none"')
        elif table.password_env is not None or table.password_file is not None:
            self.errors.append(f"{place}.username: is missing beside the password")
        if table.ca_file is not None and table.security == "none":
            self.errors.append(f'{place}.ca_file: has no use with security = "none"')
        return Smtp(
            host=table.host,
            port=table.port,
            security=table.security,
            sender=table.sender,
            username=table.username,
            password=password,
            ca_file=self.files.authority(f"{place}.ca_file", table.ca_file),
            timeout_s=table.timeout_s,
        )

    def data_dir(self, stores: model.StoresTable | None) -> Path:
        """Return the data directory, absolute; one from the environment starts at the working directory."""
        if self.environ.get(DATA_DIR):
            return Path(self.environ[DATA_DIR]).absolute()
        return (self.base / (stores.data_dir if stores is not None else "data")).absolute()

    def peppers(self, security: model.SecurityTable | None, data_dir: Path) -> tuple[tuple[str, bytes], ...]:
        """Return the peppers by id, generating the only one when the file names none."""
        if security is None or self.errors:
            return ()
        self.files.guarded("stores.data_dir", data_dir / TOKEN_FILE)
        if not security.peppers:
            return self.files.generated_peppers(data_dir, keep=self.keep_pepper)
        peppers: dict[str, bytes] = {}
        for table in security.peppers:
            place = f'security.peppers["{table.id}"]'
            if table.id in peppers:
                self.errors.append(f"{place}: another pepper has this id already")
            pepper = self.files.secret(place, "value", table.value_env, table.value_file).encode()
            if pepper and len(pepper) < PEPPER_BYTES:
                self.errors.append(
                    f"{place}: has {len(pepper)} bytes; it needs {PEPPER_BYTES} random ones or more"
                )
            peppers[table.id] = pepper
        return tuple(peppers.items())


def _billing(table: model.BillingTable) -> Billing:
    seller = table.seller
    return Billing(
        currency=table.currency,
        seller=Seller(seller.name, tuple(seller.address), tuple(seller.pay_to), seller.contact),
        issue_day=table.issue_day,
        dispute_days=table.dispute_days,
        disputed_counts_as_unpaid=table.disputed_counts_as_unpaid,
        minimum_proration=table.minimum_proration,
        notice_days=table.notice_days,
    )


def _holds_password(raw: Mapping[str, Any]) -> bool:
    """Say whether a URL of a store in the file has a password in it."""
    stores = raw.get("stores")
    urls = [stores.get(name) for name in ("redis", "database")] if isinstance(stores, dict) else []
    return any(isinstance(url, str) and without_passwords(url) != url for url in urls)


def _url(text: str) -> str | None:
    return None if text == model.EMBEDDED else text
