"""`tallygate key`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.cli.conftest import Cli
from tests.gateway.control.conftest import Api


async def test_a_key_is_made_and_shown_once(cli: Cli, account: str) -> None:
    """The text of a new key is printed with a warning, and not by later commands."""
    made = await cli("key", "create", "--account", account, "--plan", "K1", "--format", "json")
    assert made.code == 0
    assert "cannot be shown again" in made.err
    text = made.json["key"]
    assert text.startswith("tg_")
    shown = await cli("key", "show", made.json["id"])
    listed = await cli("key", "list")
    assert made.json["id"] in shown.out
    assert made.json["id"] in listed.out
    assert text[-4:] in listed.out
    assert text not in shown.out + listed.out


@pytest.mark.parametrize(
    ("form", "start"), [("table", "id "), ("csv", "id,hint,account_id,plan"), ("json", "[\n")]
)
async def test_lists_have_three_forms(cli: Cli, key: dict[str, Any], form: str, start: str) -> None:
    """A list is a table, CSV or JSON, and holds the key in each of them."""
    listed = await cli("key", "list", "--format", form)
    assert listed.out.startswith(start)
    assert key["id"] in listed.out


async def test_limits_and_invoice_dates_are_set(cli: Cli, key: dict[str, Any]) -> None:
    """Fields are set by options, and cleared with none."""
    options = ("--daily-limit", "7", "--unpaid-since", "2026-11-10", "--window", "rolling_24h")
    changed = (await cli("key", "set", key["id"], *options, "--format", "json")).json
    assert (changed["daily_limit"], changed["standing"]) == (7, "restricted")
    assert changed["window_now"] == "rolling_24h"
    cleared = await cli(
        "key", "set", key["id"], "--daily-limit", "none", "--unpaid-since", "none", "--format", "json"
    )
    assert (cleared.json["daily_limit"], cleared.json["standing"]) == (None, "active")


async def test_every_field_is_given_alike_to_a_new_key_and_to_an_old_one(
    cli: Cli, account: str, key: dict[str, Any], tmp_path: Path
) -> None:
    """`create` and `set` take the same options for a key's fields, and both clear with none."""
    secret = tmp_path / "secret"
    secret.write_text("signing\n")
    options = ["--site", "a.example", "--label", "x", "--daily-limit", "7", "--window", "rolling_24h"]
    options += ["--purchased-at", "2026-11-01", "--expires-at", "2027-01-01", "--default-provider", "Taobao"]
    options += ["--default-search-method", "Official", "--signing-secret-file", str(secret)]
    options += [
        "--allow-network",
        "10.0.0.0/8",
        "--allow-network",
        "192.0.2.1",
        "--allow-domain",
        "a.example",
    ]
    made = await cli("key", "create", "--account", account, "--plan", "K1", *options, "--format", "json")
    changed = await cli("key", "set", key["id"], *options, "--format", "json")
    told = ("site", "label", "daily_limit", "window", "purchased_at", "expires_at", "default_provider")
    told += ("default_search_method", "signed", "allow_networks", "allow_domains")
    assert {name: made.json[name] for name in told} == {name: changed.json[name] for name in told}
    assert changed.json["allow_networks"] == ["10.0.0.0/8", "192.0.2.1/32"]
    assert (changed.json["daily_limit"], changed.json["signed"]) == (7, True)
    cleared = await cli(
        "key", "set", key["id"], "--allow-network", "none", "--allow-domain", "none", "--format", "json"
    )
    assert (cleared.json["allow_networks"], cleared.json["allow_domains"]) == ([], [])
    unbought = await cli(
        "key", "create", "--account", account, "--plan", "K1", "--purchased-at", "none", "--format", "json"
    )
    assert unbought.json["purchased_at"] is None


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--daily-limit", "many"),
        ("--unpaid-since", "10.11.2026"),
        ("--expires-at", "tomorrow"),
        ("--colour", "red"),
    ],
)
async def test_what_is_typed_wrong_ends_with_2(
    cli: Cli, key: dict[str, Any], options: tuple[str, ...]
) -> None:
    """An option that cannot be read is explained, and nothing is changed."""
    refused = await cli("key", "set", key["id"], *options)
    assert refused.code == 2
    assert refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("action", "standing"),
    [("suspend", "suspended"), ("revoke", "closed"), ("close", "closed"), ("rotate", "active")],
)
async def test_what_destroys_is_asked_for(
    cli: Cli, admin: Api, key: dict[str, Any], action: str, standing: str
) -> None:
    """With nobody to ask nothing is done; --dry-run says what would be; --yes does it."""
    path = f"/v1/keys/{key['id']}"
    unasked = await cli("key", action, key["id"])
    assert unasked.code == 1
    assert "--yes" in unasked.err
    dry = await cli("key", action, key["id"], "--dry-run")
    assert dry.code == 0
    assert dry.err.startswith("Would: ")
    assert key["id"] in dry.err
    assert (await admin.get(path)).body["revision"] == key["revision"]
    done = await cli("key", action, key["id"], "--yes")
    assert done.code == 0
    assert (await admin.get(path)).body["standing"] == standing
    assert (await admin.get(path)).body["revision"] == key["revision"] + 1


async def test_a_key_is_resumed(cli: Cli, key: dict[str, Any]) -> None:
    """Letting go of a key needs no confirmation."""
    await cli("key", "suspend", key["id"], "--yes", "--reason", "abuse")
    assert (await cli("key", "resume", key["id"], "--format", "json")).json["standing"] == "active"


async def test_a_text_is_no_name(cli: Cli, key: dict[str, Any]) -> None:
    """A key's text where its id belongs is refused without being sent or repeated."""
    refused = await cli("key", "revoke", key["key"], "--yes")
    assert refused.code == 1
    assert "named by its id" in refused.err
    assert key["key"] not in refused.err


async def test_the_api_names_what_is_wrong(cli: Cli, account: str) -> None:
    """What the API refuses is printed field by field, and ends with 1."""
    refused = await cli("key", "create", "--account", account, "--plan", "K9", "--window", "week")
    assert refused.code == 1
    assert "body.window" in refused.err
    refused = await cli("key", "create", "--account", account, "--plan", "k1")
    assert "did you mean 'K1'?" in refused.err


async def test_keys_are_imported(cli: Cli, account: str, tmp_path: Path, admin: Api) -> None:
    """A CSV file's keys are taken over; again they are refused by line, or passed over when asked to."""
    file = tmp_path / "keys.csv"
    file.write_text(
        f"\ufeffcredential,account_id,plan,site,daily_limit,unlimited,purchased_at,allow_networks\n"
        f"old-key-one,,,one.example,5,,2026-01-31,10.0.0.0/8 192.0.2.1\n"
        f'old-key-two,{account},K3,"two, example",,yes,,\n',
        encoding="utf-8",
    )
    given = ("key", "import", str(file), "--account", account, "--plan", "K2")
    dry = await cli(*given, "--dry-run")
    assert (dry.code, (await admin.get("/v1/keys")).body["items"]) == (0, [])
    assert "Would import 2 keys" in dry.err
    assert "Imported 2 keys" in (await cli(*given)).err
    keys = {each["site"]: each for each in (await admin.get("/v1/keys")).body["items"]}
    assert (keys["one.example"]["plan"], keys["one.example"]["daily_limit"]) == ("K2", 5)
    assert keys["one.example"]["allow_networks"] == ["10.0.0.0/8", "192.0.2.1/32"]
    assert (keys["two, example"]["plan"], keys["two, example"]["unlimited"]) == ("K3", True)
    again = await cli(*given)
    assert again.code == 1
    assert "line 2: credential is in use already" in again.err
    dry = await cli(*given, "--dry-run")
    assert (dry.code, "line 2: credential is in use already" in dry.err) == (1, True)
    dry = await cli(*given, "--skip-existing", "--dry-run")
    assert (dry.code, "Would import 0 keys. 2 were in use already." in dry.err) == (0, True)
    wrong = await cli(
        "key", "import", str(file), "--account", "acc_0123456789abcdef", "--plan", "K9", "--dry-run"
    )
    assert (wrong.code, "line 2: plan there is no plan 'K9'" in wrong.err) == (1, True)
    with file.open("a") as more:
        more.write("old-key-three,,,,,,,\n")
    assert "Imported 1 keys. 2 were in use already." in (await cli(*given, "--skip-existing")).err


async def test_every_wrong_line_is_named(cli: Cli, account: str, tmp_path: Path, admin: Api) -> None:
    """A file with mistakes is refused whole, line by line, without showing a key."""
    file = tmp_path / "keys.csv"
    file.write_text("credential,plan,daily_limit\nshort,K1,\ngood-canary-key,,many\ngood-canary-key,K1,\n")
    refused = await cli("key", "import", str(file), "--account", account)
    assert refused.code == 1
    for said in (
        "line 2: credential",
        "line 3: plan is empty",
        "line 3: daily_limit",
        "line 4: the same key",
    ):
        assert said in refused.err
    assert "canary" not in refused.err
    assert (await admin.get("/v1/keys")).body["items"] == []
    file.write_text("credential,plan\n,K1\n,K1\n")
    assert "the same key" not in (await cli("key", "import", str(file), "--account", account)).err


@pytest.mark.parametrize(
    "content", [b"", b"plan\nK1\n", b"credentials\nx\n", b"\xff\xfe\x00", b"credential\n"]
)
async def test_what_is_no_list_of_keys_is_refused(cli: Cli, tmp_path: Path, content: bytes) -> None:
    """A file that cannot be read as a list of keys is refused with the reason."""
    file = tmp_path / "keys.csv"
    file.write_bytes(content)
    refused = await cli("key", "import", str(file), "--account", "acc_0123456789abcdef", "--plan", "K1")
    assert refused.code == 1
    assert "Error:" in refused.err


async def test_a_signing_secret_that_is_no_text_is_refused(cli: Cli, account: str, tmp_path: Path) -> None:
    """The option is named, and nothing of the file is shown."""
    file = tmp_path / "secret"
    file.write_bytes(b"canary\xff\xfe")
    given = ("--account", account, "--plan", "K1", "--signing-secret-file", str(file))
    refused = await cli("key", "create", *given)
    assert (refused.code, "--signing-secret-file" in refused.err) == (2, True)
    assert "canary" not in refused.err


async def test_what_was_revoked_is_not_resumed(cli: Cli, key: dict[str, Any]) -> None:
    """As it cannot be held: the answer would read as if calls were accepted again."""
    await cli("key", "revoke", key["id"], "--yes")
    refused = await cli("key", "resume", key["id"])
    assert (refused.code, "that is for good" in refused.err) == (1, True)
