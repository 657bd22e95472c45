"""Accounts, tokens, usage, jobs and the audit log from the command line, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.cli.main import hoisted, run
from gateway.settings import Settings
from tests.gateway.cli.conftest import Cli
from tests.gateway.control.conftest import Api, Clock
from tests.gateway.control.counting import count


async def test_an_account_with_its_keys(cli: Cli) -> None:
    """An account is made, listed, and shown with its keys."""
    made = (await cli("account", "create", "Shop", "--domain", "shop.example", "--format", "json")).json
    key = (await cli("key", "create", "--account", made["id"], "--plan", "K1", "--format", "json")).json
    assert made["id"] in (await cli("account", "list")).out
    assert (await cli("account", "show", made["id"], "--format", "json")).json["keys"] == [key["id"]]


async def test_an_account_is_changed(cli: Cli, admin: Api) -> None:
    """What is named is set and audited, `none` clears, the rest stays; a dry run changes nothing."""
    line = ("account", "create", "Shop", "--domain", "shop.example", "--email", "a@shop.example")
    made = (await cli(*line, "--format", "json")).json
    change = ("account", "set", made["id"], "--email", "b@shop.example", "--domain", "none")
    dry = await cli(*change, "--dry-run", "--format", "json")
    assert f"Would: Change main domain, billing email of {made['id']} (Shop)." in dry.err
    assert dry.json["billing_email"] == "b@shop.example"
    assert (await cli("account", "show", made["id"], "--format", "json")).json == {**made, "keys": []}
    done = (await cli(*change, "--name", "Big Shop", "--format", "json")).json
    assert [done[field] for field in ("name", "billing_email", "main_domain")] == [
        "Big Shop",
        "b@shop.example",
        None,
    ]
    audited = (await admin.get(f"/v1/audit?object={made['id']}")).body["items"][0]
    assert (audited["before"]["billing_email"], audited["after"]["billing_email"]) == (
        "a@shop.example",
        "b@shop.example",
    )
    assert (await cli("account", "set", made["id"])).code == 2


@pytest.mark.parametrize("given", ["", "  ", ".", ".."])
async def test_what_is_no_id_is_told_as_such(cli: Cli, given: str) -> None:
    """An empty text or dots would name another path of the API."""
    refused = await cli("account", "show", given)
    assert (refused.code, f"{given!r} is no id; ids are such as acc_" in refused.err) == (1, True)


async def test_a_blank_name_is_refused(cli: Cli, account: str) -> None:
    """An account without a name could not be told from others on a bill."""
    for line in (("create", " "), ("create", ""), ("set", account, "--name", " ")):
        refused = await cli("account", *line)
        assert (refused.code, "body.name" in refused.err) == (1, True), line


async def test_an_account_is_closed_with_its_keys(cli: Cli, account: str, key: dict[str, Any]) -> None:
    """A dry run says what would be done, and nobody is closed unasked; with --yes keys end as well."""
    would = await cli("account", "close", account, "--dry-run")
    assert account in would.err
    assert (await cli("account", "close", account)).code != 0
    assert (await cli("key", "show", key["id"], "--format", "json")).json["standing"] == "active"
    assert (await cli("account", "close", account, "--yes")).code == 0
    assert (await cli("key", "show", key["id"], "--format", "json")).json["standing"] == "closed"


async def test_usage_is_shown(
    cli: Cli, key: dict[str, Any], redis: Redis, settings: Settings, clock: Clock
) -> None:
    """Usage is a table by default, live, and in the ledger after a roll-up."""
    await count(redis, settings, clock, key["id"], calls=12, waived=2, denied=3)
    table = await cli("usage", "--period", "2026-11")
    assert table.out.split("\n")[0].split() == [
        "key",
        "method",
        "class",
        "calls",
        "taken",
        "waived",
        "billable",
    ]
    assert table.out.split("\n")[1].split() == [
        key["id"],
        "SearchItemsFrame",
        "search",
        "12",
        "12",
        "2",
        "10",
    ]
    by_class = ("usage", "--period", "2026-11", "--group-by", "class", "--ledger", "--format")
    assert (await cli(*by_class, "json")).json == []
    rolled = await cli("rollup", "--format", "json")
    assert rolled.json["rows"] == 1
    rows = list(csv.reader(io.StringIO((await cli(*by_class, "csv")).out)))
    assert rows == [["class", "calls", "taken", "waived", "billable"], ["search", "12", "12", "2", "10"]]
    reasons = await cli("usage", "--period", "2026-11", "--reasons", "--format", "json")
    assert [(each["reason"], each["units"]) for each in reasons.json] == [("suspended", 3), ("error_code", 2)]
    by_key = await cli(
        "usage", "--period", "2026-11", "--reasons", "--group-by", "key,day", "--format", "csv"
    )
    assert by_key.out.splitlines()[0] == "key,day,effect,reason,units"
    assert by_key.out.splitlines()[1].startswith(f"{key['id']},2026-11-")
    wrong = await cli("usage", "--reasons", "--group-by", "method")
    assert (wrong.code, "'method' is no group" in wrong.err) == (1, True)


async def test_long_lists_are_read_whole(cli: Cli, admin: Api, account: str) -> None:
    """A list goes on over as many pages as there are; --limit ends it earlier."""
    entry = {"account_id": account, "plan": "K1"}
    keys = [entry | {"credential": f"old-key-{number:05}"} for number in range(1_001)]
    await admin.post("/v1/keys/import", {"keys": keys})
    listed = (await cli("key", "list", "--format", "json")).json
    assert len({each["id"] for each in listed}) == 1_001
    assert len((await cli("key", "list", "--limit", "3", "--format", "json")).json) == 3


async def test_redis_is_rebuilt(cli: Cli, key: dict[str, Any], redis: Redis) -> None:
    """A rebuild is asked for, and fills an emptied Redis."""
    await redis.flushall()
    assert (await cli("rebuild")).code == 1
    assert (await cli("rebuild", "--dry-run")).code == 0
    assert await redis.dbsize() == 0
    assert (await cli("rebuild", "--yes", "--format", "json")).json["records"] == 1


async def test_tokens(cli: Cli) -> None:
    """A token made here works at once, shows in the list, and no longer works once revoked."""
    made = (await cli("token", "create", "bot", "--role", "support", "--format", "json")).json
    assert (await cli("key", "list", token=made["token"])).code == 0
    assert (await cli("token", "list", token=made["token"])).code == 1
    assert made["id"] in (await cli("token", "list")).out
    assert (await cli("token", "revoke", made["id"], "--yes")).code == 0
    refused = await cli("key", "list", token=made["token"])
    assert refused.code == 1
    assert "revoked" in refused.err
    assert made["token"] not in refused.err
    assert (await cli("token", "revoke", made["token"], "--yes")).code == 1


async def test_the_audit_log(cli: Cli, key: dict[str, Any]) -> None:
    """What was done to a key can be asked for by its id."""
    await cli("key", "suspend", key["id"], "--yes")
    listed = (await cli("audit", "list", "--object", key["id"], "--format", "json")).json
    assert [each["action"] for each in listed] == ["key.suspend", "key.create"]


async def test_a_silent_address_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """An API that does not answer is named with what can be done, without a traceback."""
    code = await asyncio.to_thread(run, ["usage", "--url", "http://127.0.0.1:1", "--token", "t"])
    err = capsys.readouterr().err
    assert code == 1
    assert "does not answer at http://127.0.0.1:1" in err
    assert "tallygate serve" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frobnicate"], 2, "No such command"),
        (["key", "show"], 2, "Missing argument"),
        (["usage", "--url", "nonsense", "--token", "t"], 1, "--url must be an address"),
        (["usage", "--url", "http://127.0.0.1:1"], 1, "--token"),
    ],
)
def test_mistakes_end_with_their_code(
    arguments: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was typed wrong ends with 2, what cannot be done with 1; both say why."""
    monkeypatch.delenv("TALLYGATE_TOKEN", raising=False)
    assert run(arguments) == code
    assert said in capsys.readouterr().err


def test_the_token_of_this_machine_is_not_sent_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The token in the data directory is for the configured address only."""
    (tmp_path / "control-token").write_text("tgc_local")
    monkeypatch.setenv("TALLYGATE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("TALLYGATE_TOKEN", raising=False)
    assert run(["usage", "--url", "http://127.0.0.1:1"]) == 1
    assert "give a token" in capsys.readouterr().err


def test_without_a_token_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When nothing was started here, the error says where the token would be."""
    monkeypatch.setenv("TALLYGATE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("TALLYGATE_TOKEN", raising=False)
    assert run(["usage"]) == 1
    err = capsys.readouterr().err
    assert str(tmp_path / "control-token") in err
    assert "tallygate serve" in err


def test_a_wrong_choice_is_told_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """What was typed and what could be, and nothing of what checked it."""
    assert run(["usage", "--format", "xml"]) == 2
    told = " ".join(capsys.readouterr().err.replace("\u2502", "").split())
    assert "Invalid value for '--format': 'xml' is not one of 'table', 'csv', 'json'." in told


def test_check_names_every_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong configuration ends with 1 and all of its errors; a right one with 0, and no pepper is made."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[server]\nworkers = 0\nport = 1\n")
    assert run(["check", "--config", str(wrong)]) == 1
    err = capsys.readouterr().err
    for said in ("server.workers", "server.port: is unknown", "plans: at least one"):
        assert said in err
    example = Path(__file__).parents[3] / "config.example.toml"
    right = tmp_path / "right.toml"
    right.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    assert run(["check", "--config", str(right)]) == 0
    assert "is right" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_check_names_a_data_directory_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the way, or a folder that may not be written, is told before serving fails."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    for place in (file, file / "data"):
        monkeypatch.setenv("TALLYGATE_DATA_DIR", str(place))
        assert run(["check"]) == 1
        said = f"stores.data_dir: {place} cannot be used: {file} is no directory"
        assert said in capsys.readouterr().err
    monkeypatch.setenv("TALLYGATE_DATA_DIR", str(folder / "a" / "data"))
    assert run(["check"]) == 0
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)  # as for a user that is not root
    assert run(["check"]) == 1
    assert f"{folder} cannot be written by this user" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_check_warns_of_secrets_that_others_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An open file with a secret is no error: the check ends with 0 and says what to do."""
    example = Path(__file__).parents[3] / "config.example.toml"
    file, pepper = tmp_path / "config.toml", tmp_path / "pepper"
    text = example.read_text(encoding="utf-8")
    pepper.write_text("p" * 40)
    named = text.replace("[logging]", '[[security.peppers]]\nid = "a"\nvalue_file = "pepper"\n[logging]', 1)
    file.write_text(named, encoding="utf-8")
    pepper.chmod(0o644)
    assert run(["check", "--config", str(file)]) == 0
    err = capsys.readouterr().err
    assert f'Caution: security.peppers["a"].value_file: {pepper}' in err
    assert "chmod 600" in err
    assert "is right" in err
    pepper.chmod(0o600)
    assert run(["check", "--config", str(file)]) == 0
    assert "Caution" not in capsys.readouterr().err


async def test_a_token_is_made_without_one(
    tmp_path: Path,
    database_url: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: Settings,
) -> None:
    """With access to the ledger itself, a first token can be made that opens the API."""
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", database_url)
    monkeypatch.setenv("TALLYGATE_DATA_DIR", str(settings.stores.data_dir))
    arguments = ["token", "create", "first", "--role", "admin", "--local", "--format", "json"]
    assert await asyncio.to_thread(run, arguments) == 0
    made = json.loads(capsys.readouterr().out)
    api = Api(client, made["token"])
    assert (await api.get("/v1/tokens")).body["items"][0]["created_by"] == "command line"
    (entry,) = (await api.get(f"/v1/audit?object={made['id']}")).body["items"]
    assert (entry["action"], entry["actor"], entry["before"]) == ("token.create", "command line", None)
    assert entry["after"]["role"] == "admin"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["usage", "--url", "u", "--live"], ["--url", "u", "usage", "--live"]),
        (["key", "list", "--token=t"], ["--token=t", "key", "list"]),
        (["serve", "--config", "c.toml"], ["--config", "c.toml", "serve"]),
        (["account", "create", "--", "--url", "x"], ["account", "create", "--", "--url", "x"]),
        (["usage", "--url"], ["usage", "--url"]),
    ],
)
def test_global_options_may_stand_anywhere(typed: list[str], read: list[str]) -> None:
    """They are read as if they stood in front, except behind a `--`."""
    assert hoisted(typed) == read
