"""The configuration: what is read, and that everything wrong is named at once."""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel

from gateway import config_model as model
from gateway.config import ConfigError, example_path, load
from gateway.settings import Dialect, KeyOut, Place, Source, Tls
from gateway.tls import ending
from policies.methods import OFFICIAL_SEARCH, Reading, classify
from policies.quota import Window
from policies.standing import Standing
from tests.certificates import VALID_UNTIL, authority

K1 = "[plans.K1]"
SMALL = """
[plans.K1]
daily_limit = 10
[[upstreams]]
name = "shop"
base_url = "https://api.example.com/v2/"
[[routes]]
path_prefix = "/service-json/"
upstream = "shop"
dialect = "otapi"
key_in = ["query:instanceKey"]
[[methods]]
class = "search"
match = ["SearchItemsFrame"]
"""
# The vendor's product searches, by name: what restricts a key must not miss one.
PRODUCT_SEARCHES = [
    "SearchItemsFrame",
    "BatchSearchItemsFrame",
    "RunBulkSearchItems",
    "SearchPromoteItemsFrame",
    "FindCategoryItemInfoListFrame",
    "FindCategoryItemSimpleInfoListFrame",
    "FindItemInfoListFrameByTitle",
    "FindItemSimpleInfoListFrameByTitle",
    "GetCategoryItemInfoListFrame",
    "GetCategoryItemSimpleInfoListFrame",
    "GetVendorItemInfoSortedListFrame",
    "GetVendorItemSimpleInfoSortedListFrame",
]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose data directory is a new one."""
    return {"TALLYGATE_DATA_DIR": str(tmp_path / "data")}


def write(place: Path, text: str) -> Path:
    """Write a configuration and return its path."""
    path = place / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def errors_of(place: Path, text: str, environ: dict[str, str]) -> tuple[str, ...]:
    """Return what is said to be wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        load(write(place, text), environ)
    return caught.value.errors


def tables(kind: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every setting of a table and of the tables in it, as the file names it."""
    for name, field in kind.model_fields.items():
        yield field.alias or name, kind
        pending: list[Any] = [field.annotation]
        while pending:
            annotation = pending.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from tables(annotation)
            else:
                pending += getattr(annotation, "__args__", ())


def test_the_example_loads(environ: dict[str, str]) -> None:
    """The example is a right configuration: three plans, two sandboxes, the ladder of the contract."""
    settings = load(example_path(), environ)
    plans = settings.contract.plans
    assert {"K1", "K2", "K3"} <= plans.keys()
    assert (plans["sandbox"].daily_limit, plans["sandbox"].methods) == (5000, frozenset({"SearchItemsFrame"}))
    assert (plans["sandbox_box"].daily_limit, plans["sandbox_box"].lifetime_months) == (1000, 1)
    assert [(step.after_days, step.standing) for step in settings.contract.steps] == [
        (7, Standing.RESTRICTED),
        (21, Standing.BANNED),
    ]
    terms = settings.contract.trial
    assert (terms.within_days, terms.months, terms.daily_limit) == (7, 1, 100_000)
    assert settings.stores.redis_url is None
    assert settings.stores.database_url is None


def test_no_configuration_is_the_example(environ: dict[str, str]) -> None:
    """Without a file the example is served, and the environment names the demo's address."""
    settings = load(None, environ | {"TALLYGATE_DEMO_URL": "http://127.0.0.1:4321"})
    assert [upstream.port for upstream in settings.upstreams] == [4321]
    assert settings.contract.plans == load(example_path(), environ).contract.plans


def test_the_example_shows_every_setting(tmp_path: Path, environ: dict[str, str]) -> None:
    """With every setting that is off turned on, the example is right and leaves no setting out."""
    text = re.sub(r"(?m)^#(?=[\[\]a-z_ ])(?! )", "", example_path().read_text(encoding="utf-8"))
    names = [
        "tls/proxy.crt",
        "tls/proxy.key",
        "tls/clients.crt",
        "tls/control.crt",
        "tls/control.key",
        "tls/operators.crt",
        "tls/marketplace-ca.crt",
        "tls/mail-ca.crt",
        "secrets/mail-password",
        "secrets/pepper-2025",
        "secrets/marketplace-secret",
        "secrets/second-key",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * 40)
        (tmp_path / name).chmod(0o600)
    trusted = authority(tmp_path / "tls")
    for name in ("proxy", "control"):
        files = trusted.issue(name)
        files.cert_file.rename(tmp_path / "tls" / f"{name}.crt")
    for name in ("clients.crt", "operators.crt", "marketplace-ca.crt", "mail-ca.crt"):
        (tmp_path / "tls" / name).write_bytes(trusted.ca_file.read_bytes())
    secrets = {"TALLYGATE_PEPPER": "y" * 40, "MARKETPLACE_KEY": "k", "SECOND_MARKETPLACE_SECRET": "s"}
    settings = load(write(tmp_path, text), environ | secrets)
    assert len(settings.contract.steps) == 3
    assert [pepper_id for pepper_id, _ in settings.security.peppers] == ["2026", "2025"]

    assert settings.notices.smtp is not None
    assert settings.notices.smtp.password == "x" * 40

    raw = tomllib.loads(text)
    shown = set(_names(raw)) | {"password_env"}  # which cannot stand beside password_file
    kinds = (
        model.ServerTable,
        model.StoresTable,
        model.SecurityTable,
        model.BillingTable,
        model.MeteringTable,
        model.LoggingTable,
        model.NoticesTable,
        model.PlanTable,
        model.UpstreamTable,
        model.RouteTable,
        model.MethodsTable,
    )
    missing = {name for kind in kinds for name, _ in tables(kind)} - shown
    assert not missing


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def test_the_example_states_each_default(tmp_path: Path, environ: dict[str, str]) -> None:
    """Where the example shows a setting beside its default, the two are the same."""
    raw = tomllib.loads(example_path().read_text(encoding="utf-8"))
    for name, kind in (
        ("stores", model.StoresTable),
        ("logging", model.LoggingTable),
        ("metering", model.MeteringTable),
        ("server", model.ServerTable),
    ):
        defaults = kind().model_dump(mode="json")
        shown = {key: value for key, value in raw[name].items() if key != "workers"}
        assert shown == {key: defaults[key] for key in shown}, name


@pytest.mark.parametrize("method", PRODUCT_SEARCHES)
def test_product_searches_are_searches(environ: dict[str, str], method: str) -> None:
    """Each of the vendor's product searches has the class that a restriction denies."""
    found = load(example_path(), environ).methods.lookup(method)
    assert found is not None
    assert found[1].klass == "search"


@pytest.mark.parametrize(
    "method",
    ["SearchOrders", "SearchUsersWithSummary", "SearchBills", "FindBaseUserInfoListFrame"],
)
def test_other_searches_are_none(environ: dict[str, str], method: str) -> None:
    """What only sounds like a search stays open to a restricted key."""
    found = load(example_path(), environ).methods.lookup(method)
    assert found is not None
    assert found[1].klass != "search"


def test_the_example_knows_the_official_search_and_the_surcharges(environ: dict[str, str]) -> None:
    """Taobao/Official makes a search official; ForceUpdate costs 5, and 25 at Pinduoduo."""
    methods = load(example_path(), environ).methods
    name, rule = methods.lookup("searchitemsframe") or pytest.fail("unknown")
    official = Reading(values={"Provider": "Taobao", "SearchMethod": "Official"})
    assert classify(name, rule, official).klass == OFFICIAL_SEARCH
    name, rule = methods.lookup("BatchGetItemFullInfo") or pytest.fail("unknown")
    assert rule.billable
    forced = {"ForceUpdate": "true"}
    assert classify(name, rule, Reading(values=forced)).cost == 5
    assert classify(name, rule, Reading(values=forced | {"Provider": "Pinduoduo"})).cost == 25


def test_every_error_is_named_at_once(tmp_path: Path, environ: dict[str, str]) -> None:
    """Wrong, missing, misspelled and contradicting settings are told together, each by its place."""
    text = SMALL.replace('dialect = "otapi"', 'dialekt = "otapi"').replace(
        "daily_limit = 10", "daily_limit = -1"
    )
    text += '[server]\nworkers = "two"\n[billing]\ntimezone = "Mars/Olympus"\n[bling]\n'
    text += '[[billing.standing]]\nafter_days = 7\ndeny = ["serach"]\n'
    found = "\n".join(errors_of(tmp_path, text, environ))
    assert "server.workers: must be a valid integer, not 'two'" in found
    assert "routes[\"/service-json/\"].dialekt: is unknown; did you mean 'dialect'?" in found
    assert "plans.K1.daily_limit: must be greater than or equal to 0, not -1" in found
    assert "billing.timezone: 'Mars/Olympus' is no timezone" in found
    assert "bling: is unknown; did you mean 'billing'?" in found
    assert "billing.standing[1]: no [[methods]] has the class 'serach'; did you mean 'search'?" in found
    assert found.count("\n") == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('upstream = "shop"', 'upstream = "shp"'), "there is no upstream 'shp'; did you mean 'shop'?"),
        (('["query:instanceKey"]', '["query"]'), "needs a name"),
        (('["query:instanceKey"]', '["path"]'), "a key cannot stand in 'path'"),
        (('["query:instanceKey"]', '["cookie:k"]'), "is no place in a request"),
        (('class = "search"', 'class = "Search"'), "must be a lower-case word"),
        (("daily_limit = 10", ""), "must have either daily_limit = N or unlimited = true"),
        (
            ("daily_limit = 10", 'daily_limit = 1\nmethods = ["SearchItemFrame"]'),
            "did you mean 'SearchItemsFrame'?",
        ),
        (('"https://api.example.com/v2/"', '"api.example.com"'), "must begin with http:// or https://"),
        (
            ('"https://api.example.com/v2/"', '"https://u:pw@api.example.com"'),
            "scheme, host, port and path only",
        ),
        (('dialect = "otapi"', 'key_out = "replace"'), "needs key_env or key_file"),
        (('dialect = "otapi"', "signed = true"), 'for dialect = "otapi" only'),
        (('dialect = "otapi"', 'dialect = "soap"'), "must be 'otapi', 'top' or 'problem', not 'soap'"),
        (('match = ["SearchItemsFrame"]', 'match = ["a", "A"]'), "already stands in"),
        (('match = ["SearchItemsFrame"]', 'match = ["a", "b\\u0000"]'), "match[2]: must not hold control"),
        (('match = ["SearchItemsFrame"]', 'match = ["a\\n"]'), "match[1]: must not hold control"),
        (('match = ["SearchItemsFrame"]', 'match = ["a"]\nbillable = true\ncost = 0'), "must be 1 or more"),
        ((K1, '[server]\nproxy_listen = "localhost"\n' + K1), "must be host:port"),
        (
            (K1, '[server.proxy_tls]\ncert_file = "no.crt"\nkey_file = "no.key"\n' + K1),
            "no.crt is no file",
        ),
        (
            (K1, '[[security.peppers]]\nid = "a"\n' + K1),
            "exactly one of value_env and value_file",
        ),
        (
            (K1, '[[security.peppers]]\nid = "a"\nvalue_env = "NOT_SET"\n' + K1),
            "the environment variable NOT_SET is not set",
        ),
        (
            (
                "[plans.K1]",
                '[[billing.standing]]\nafter_days = 1\nstanding = "banned"\ndeny = ["search"]\n' + K1,
            ),
            "it denies everything",
        ),
    ],
)
def test_an_error_says_what_is_right(
    tmp_path: Path, environ: dict[str, str], change: tuple[str, str], said: str
) -> None:
    """Each kind of mistake is one error that names it."""
    errors = errors_of(tmp_path, SMALL.replace(*change), environ)
    assert len([error for error in errors if said in error]) == 1, errors


def test_a_small_file_is_enough(tmp_path: Path, environ: dict[str, str]) -> None:
    """Everything that is left out has its default, the contract's ladder too."""
    settings = load(write(tmp_path, SMALL), environ)
    upstream, route = settings.upstreams[0], settings.routes[0]
    assert (upstream.host, upstream.port, upstream.tls, upstream.base_path) == (
        "api.example.com",
        443,
        True,
        "/v2",
    )
    assert upstream.host_header == "api.example.com"
    assert (route.dialect, route.key_out, route.key_in) == (
        Dialect.OTAPI,
        KeyOut.STRIP,
        (Place(Source.QUERY, "instanceKey"),),
    )
    assert [step.after_days for step in settings.contract.steps] == [7, 21]
    assert settings.contract.plans["K1"].window is Window.DAY


def test_an_error_hides_a_password(tmp_path: Path, environ: dict[str, str]) -> None:
    """A wrong store URL is refused without being shown."""
    errors = errors_of(tmp_path, '[stores]\ndatabase = "mysql://u:hunter2@db/x"\n' + SMALL, environ)
    assert any("stores.database" in error for error in errors)
    assert "hunter2" not in "".join(errors)


def test_stores_may_come_from_the_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    """The environment's store URLs stand above the file's."""
    urls = {"TALLYGATE_REDIS_URL": "redis://r:1", "TALLYGATE_DATABASE_URL": "postgresql://p/x"}
    stores = load(write(tmp_path, SMALL), environ | urls).stores
    assert (stores.redis_url, stores.database_url) == ("redis://r:1", "postgresql://p/x")


def test_the_pepper_is_made_once_and_kept(tmp_path: Path, environ: dict[str, str]) -> None:
    """A generated pepper is readable to its user only and stays the same; a mere check writes none."""
    path = write(tmp_path, SMALL)
    load(path, environ, keep_pepper=False)
    assert not (tmp_path / "data").exists()
    first = load(path, environ).security.peppers
    kept = tmp_path / "data" / "pepper"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert list(kept.parent.iterdir()) == [kept]
    assert load(path, environ).security.peppers == first
    assert "pepper" not in repr(load(path, environ).security)


def test_a_secret_replaces_the_key(tmp_path: Path, environ: dict[str, str]) -> None:
    """The key that goes to the upstream comes from a file or the environment, and is not shown."""
    (tmp_path / "secret").write_text("s3cret\n")
    text = SMALL.replace(
        'dialect = "otapi"',
        'key_out = "replace"\ncredential = { key_env = "OUR_KEY", secret_file = "secret" }',
    )
    settings = load(write(tmp_path, text), environ | {"OUR_KEY": "our-key"})
    credential = settings.routes[0].credential
    assert credential is not None
    assert (credential.key, credential.secret) == ("our-key", "s3cret")
    assert "our-key" not in repr(settings.routes[0])


@pytest.mark.parametrize("text", ["[server", "\x00", "server = 3", "routes = 3\nplans = 3"])
def test_what_is_no_configuration_is_refused(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    """Broken TOML and tables of the wrong kind are errors, not tracebacks."""
    assert errors_of(tmp_path, text, environ)


def test_a_missing_file_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    """The error of a file that is not there names the file."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml", environ)


@pytest.mark.parametrize("name", ["TALLYGATE_REDIS_URL", "TALLYGATE_DATABASE_URL"])
def test_a_wrong_url_in_the_environment_is_refused(
    tmp_path: Path, environ: dict[str, str], name: str
) -> None:
    """The variable is named, and what it holds is not shown."""
    (error,) = errors_of(tmp_path, SMALL, environ | {name: "mysql://user:canary@host/db"})
    assert error.startswith(name)
    assert "must be" in error
    assert "canary" not in error


def tls_table(files: Tls, **more: Path) -> str:
    """Return a listener's TLS as a configuration writes it."""
    named = {"cert_file": files.cert_file, "key_file": files.key_file, **more}
    return "[server.proxy_tls]\n" + "".join(f'{name} = "{path}"\n' for name, path in named.items()) + K1


def test_files_of_tls_have_to_belong_together(tmp_path: Path, environ: dict[str, str]) -> None:
    """Another certificate's key, an encrypted key and a file of nonsense are errors, found before a start."""
    trusted = authority(tmp_path)
    good, other = trusted.issue("good"), trusted.issue("other")
    nonsense, locked = tmp_path / "nonsense", tmp_path / "locked.key"
    nonsense.write_text("nothing")
    key = serialization.load_pem_private_key(good.key_file.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    load(write(tmp_path, SMALL.replace(K1, tls_table(good))), environ)
    for wrong in (
        tls_table(Tls(good.cert_file, other.key_file)),
        tls_table(Tls(good.cert_file, locked)),
        tls_table(Tls(nonsense, good.key_file)),
        tls_table(good, client_ca_file=nonsense),
    ):
        with pytest.raises(ConfigError) as refused:
            load(write(tmp_path, SMALL.replace(K1, wrong)), environ)
        (error,) = refused.value.errors
        assert error.startswith("server.proxy_tls: ")


def test_authorities_of_others_are_certificates(tmp_path: Path, environ: dict[str, str]) -> None:
    """A file of nonsense to know an upstream or a mail server by is an error, found before a start."""
    (tmp_path / "ca.pem").write_text("nothing")
    text = SMALL.replace('"http://', '"https://').replace("[[routes]]", 'ca_file = "ca.pem"\n[[routes]]', 1)
    text += '\n[notices.smtp]\nhost = "mail.example"\nsender = "a@shop.example"\nca_file = "ca.pem"\n'
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, text), environ)
    assert [error.partition(": ")[0].rpartition(".")[2] for error in refused.value.errors] == ["ca_file"] * 2
    assert all(f"{tmp_path}/ca.pem holds no certificates" in error for error in refused.value.errors)
    (tmp_path / "ca.pem").write_bytes(authority(tmp_path).ca_file.read_bytes())
    assert load(write(tmp_path, text), environ).upstreams[0].ca_file == tmp_path / "ca.pem"


def test_open_secrets_and_ending_certificates_are_cautions(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is right and yet unwise is told without being an error, and goes away with its cause."""
    files = authority(tmp_path).issue("server")
    pepper = tmp_path / "pepper"
    pepper.write_text("p" * 40)
    text = '[[security.peppers]]\nid = "a"\nvalue_file = "pepper"\n' + tls_table(files)
    config_file = write(tmp_path, SMALL.replace(K1, text))
    for secret in (pepper, files.key_file):
        secret.chmod(0o644)
    cautions = load(config_file, environ).cautions
    assert [caution.partition(":")[0] for caution in cautions] == [
        "server.proxy_tls.key_file",
        'security.peppers["a"].value_file',
    ]
    assert all("644" in caution and "chmod 600" in caution for caution in cautions)
    for secret in (pepper, files.key_file):
        secret.chmod(0o640)
    assert load(config_file, environ).cautions == ()
    assert ending(files.cert_file, VALID_UNTIL - timedelta(days=15)) is None
    assert ending(files.cert_file, VALID_UNTIL - timedelta(days=13)) == f"{VALID_UNTIL:%Y-%m-%d %H:%M} UTC"
    assert ending(pepper) is None


def test_the_data_directory_is_made_for_this_user(tmp_path: Path) -> None:
    """The pepper is the first thing in it: others cannot list it from then on."""
    load(example_path(), {"TALLYGATE_DATA_DIR": str(tmp_path / "data")})
    assert (tmp_path / "data").stat().st_mode & 0o066 == 0


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host:1/0", "redis+sentinel://host:1/counts?sentinel_password=hunter2"]
)
def test_a_password_in_an_open_file_is_a_caution(tmp_path: Path, environ: dict[str, str], url: str) -> None:
    """A store's URL with a password makes the configuration itself a secret."""
    without = {name: value for name, value in environ.items() if name != "TALLYGATE_REDIS_URL"}
    config_file = write(tmp_path, f'[stores]\nredis = "{url}"\nredis_replicas = 1\n' + SMALL)
    config_file.chmod(0o644)
    (caution,) = load(config_file, without).cautions
    assert caution.startswith(f"stores: {config_file} holds a secret")
    assert "hunter2" not in caution
    config_file.chmod(0o600)
    assert load(config_file, without).cautions == ()


@pytest.mark.parametrize("kind", ["sentinel://host:1/counts", "cluster://host:1"])
def test_counts_that_wait_for_no_replica_are_a_caution(
    tmp_path: Path, environ: dict[str, str], kind: str
) -> None:
    """Where a replica may take over, counting without waiting for one is told to be unwise."""
    config_file = write(tmp_path, SMALL)
    (caution,) = load(config_file, environ | {"TALLYGATE_REDIS_URL": f"redis+{kind}"}).cautions
    assert caution.startswith("stores.redis_replicas: with 0 a master that dies")
    config_file = write(tmp_path, f'[stores]\nredis = "rediss+{kind}"\n{SMALL}')
    without = {name: value for name, value in environ.items() if name != "TALLYGATE_REDIS_URL"}
    assert len(load(config_file, without).cautions) == 1
    config_file = write(tmp_path, f'[stores]\nredis = "rediss+{kind}"\nredis_replicas = 1\n{SMALL}')
    assert load(config_file, without).cautions == ()
    alone = environ | {"TALLYGATE_REDIS_URL": "redis://host:1/0"}
    assert load(write(tmp_path, SMALL), alone).cautions == ()


def test_the_proxy_protocol_needs_somebody_to_trust(tmp_path: Path, environ: dict[str, str]) -> None:
    """PROXY headers of nobody would be believed of nobody; networks are written in their usual spelling."""
    with pytest.raises(ConfigError, match="trusted_proxies"):
        load(write(tmp_path, "[server]\nproxy_protocol = true\n" + SMALL), environ)
    with pytest.raises(ConfigError, match="no network"):
        load(write(tmp_path, '[server]\ntrusted_proxies = ["10.0.0.1/8"]\n' + SMALL), environ)
    named = '[server]\nproxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n' + SMALL
    server = load(write(tmp_path, named), environ).server
    assert (server.proxy_protocol, server.trusted_proxies) == (True, ("10.0.0.0/8", "::1/128"))
