"""`--dry-run`: every command that changes something can say what it would do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.cli.main import app
from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import ISSUING, PRICES, Shop
from tests.gateway.control.conftest import Api, Clock

# What only reads, and what runs processes: `serve` and `restart` change no books.
READS = {
    "account list", "account show", "audit list", "backup create", "backup verify", "bill balance",
    "bill credit-notes", "bill disputes", "bill list", "bill payments", "bill show", "check", "demo",
    "export focus", "export focus-schema", "interruption list", "interruption show", "key list", "key show",
    "notice list", "pepper status", "plan example", "plan list", "plan price", "plan show",
    "plan subscriptions", "reconcile", "rehearse", "restart", "serve", "token list", "usage", "webhook list",
}  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command by its name."""
    root: Any = typer.main.get_command(app)
    stack = [("", root)]
    while stack:
        name, command = stack.pop()
        if hasattr(command, "commands"):
            stack += [(f"{name} {each}".strip(), one) for each, one in command.commands.items()]
        else:
            yield name, command


def test_every_change_has_a_dry_run() -> None:
    """A command either only reads, or takes --dry-run."""
    without = {name for name, command in commands() if "dry_run" not in {p.name for p in command.params}}
    assert without == READS


@pytest.fixture
async def shop(admin: Api, engine: AsyncEngine, clock: Clock) -> Shop:
    """A shop with an unpaid invoice of 125.00."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_500)
    await made.bill()
    return made


async def test_dry_runs_tell_what_would_come_of_it(shop: Shop, cli: Cli, admin: Api) -> None:
    """Each says what it would do and shows the outcome, and the books are as before."""
    before = (await admin.get("/v1/audit?limit=1000")).body
    for line, would, outcome in (
        (("account", "create", "Other"), "Make an account for Other", "Other"),
        (("key", "create", "--account", shop.account, "--plan", "K1"), "Make a key of plan K1", shop.account),
        (("key", "set", shop.key, "--daily-limit", "7"), "Change daily limit of", "7"),
        (("key", "suspend", shop.key), "Refuse every call of", "suspended"),
        (("bill", "pay", shop.account, "125.00"), "Note a payment of 125.00", "0.00"),
        (
            ("bill", "void", "INV-000001", "--reason", "twice"),
            f"Make INV-000001 (125.00 USD of {shop.account}) void",
            "twice",
        ),
        (
            ("webhook", "create", "https://hooks.example/x"),
            "Send every event of every account",
            "hooks.example",
        ),
        (("token", "create", "job", "--role", "billing"), "Make a token for job", "billing"),
        (("account", "close", shop.account), "End the service of", shop.account),
        (("rollup", "--full"), "Write every counter", ""),
    ):
        told = await cli(*line, "--dry-run")
        assert (told.code, f"Would: {would}" in told.err) == (0, True), (line, told.err)
        assert outcome in told.out, line
        assert "shown again" not in told.err
    assert (await admin.get("/v1/audit?limit=1000")).body == before


async def test_announcing_dry_tells_how_many_would_hear(shop: Shop, cli: Cli, clock: Clock) -> None:
    """Customers that were told are not counted again, and a dry run tells none."""
    clock.now = ISSUING
    newer = PRICES + (
        '[[plans.K1.versions]]\nversion = 2\neffective_from = 2027-01-01\nmodel = "per_unit"\n'
        'tiers = [{ unit = "0.01" }]\n'
    )
    await shop.post("/v1/plans/apply", {"toml": newer})
    account = (await shop.api.post("/v1/accounts", {"name": "New"})).body["id"]
    await shop.api.post("/v1/keys", {"account_id": account, "plan": "K1"})
    dry = await cli("plan", "announce", "K1", "--dry-run")
    assert "1 customers would be told." in dry.err
    assert "1 customers are told." in (await cli("plan", "announce", "K1")).err
    assert "0 customers would be told." in (await cli("plan", "announce", "K1", "--dry-run")).err


async def test_a_notice_that_failed_would_be_tried_again(shop: Shop, cli: Cli, engine: AsyncEngine) -> None:
    """The dry run names each way that failed and why, and leaves it failed."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE notice_deliveries SET state = 'failed', last_error = 'SMTP 550'"
        )
    [notice] = (await cli("notice", "list", "--format", "json")).json
    dry = await cli("notice", "retry", notice["id"], "--dry-run", "--format", "json")
    assert "Would: Try again: email to bills@shop.example (SMTP 550)." in dry.err
    assert dry.json["deliveries"][0]["state"] == "pending"
    [same] = (await cli("notice", "list", "--format", "json")).json
    assert same["deliveries"][0]["state"] == "failed"


async def test_what_does_not_exist_is_told_before_anybody_is_asked(shop: Shop, cli: Cli) -> None:
    """Nothing is announced as about to happen when it cannot, with --yes, with --dry-run, or without."""
    why, day = ("--reason", "x"), "2026-11-12"
    line = ("--line", "99", "--evidence", "x", "--determined-on", day)
    for command, said in (
        (("bill", "reverse", "pay_0123456789abcdef", *why), "There is no payment pay_0123456789abcdef."),
        (("bill", "pay", "acc_0123456789abcdef", "1.00"), "There is no account acc_0123456789abcdef."),
        (("bill", "void", "inv_0123456789abcdef", *why), "There is no invoice inv_0123456789abcdef."),
        (("bill", "dispute", "INV-000001", *line), "no line 99 of invoice INV-000001 (lines: 1 to 2)."),
        (
            ("bill", "resolve", "dsp_0123456789abcdef", "--reject", "--resolution", "x"),
            "There is no dispute dsp_0123456789abcdef.",
        ),
        (("token", "revoke", "tok_0123456789abcdef"), "There is no token tok_0123456789abcdef."),
        (("webhook", "disable", "whk_0123456789abcdef"), "There is no webhook whk_0123456789abcdef."),
        (
            ("interruption", "acknowledge", "int_0123456789abcdef", *why),
            "There is no interruption int_0123456789abcdef.",
        ),
        (
            ("plan", "move", "key_0123456789abcdef", "--to", "2", "--from", "2026-12-01"),
            "key_0123456789abcdef",
        ),
    ):
        for option in ((), ("--dry-run",), ("--yes",)):
            if command[1] == "dispute" and option == ("--yes",):
                continue  # it does not ask
            refused = await cli(*command, *option)
            assert (refused.code, refused.err.startswith("Error:"), said in refused.err) == (1, True, True), (
                refused.err
            )


async def test_what_would_be_ended_is_named(shop: Shop, cli: Cli) -> None:
    """A payment is named by its amount and account, a token by its name and role."""
    paid = (await cli("bill", "pay", shop.account, "5", "--yes", "--format", "json")).json
    told = await cli("bill", "reverse", paid["id"], "--reason", "x", "--dry-run")
    assert f"Would: Reverse {paid['id']} (5.00 USD of {shop.account})." in told.err
    made = (await cli("token", "create", "till", "--role", "ops", "--format", "json")).json
    told = await cli("token", "revoke", made["id"], "--dry-run")
    assert f"Would: End token {made['id']} (till, ops) at once and for good." in told.err


async def test_a_repeated_reversal_is_answered_as_it_was(shop: Shop, cli: Cli) -> None:
    """What the books would refuse by now is no refusal under the idempotency key it was done with."""
    paid = (await cli("bill", "pay", shop.account, "5", "--yes", "--format", "json")).json
    line = ("bill", "reverse", paid["id"], "--reason", "x", "--yes", "--format", "json")
    first, again = [await cli(*line, "--idempotency-key", "back-1") for _ in range(2)]
    assert (first.code, again.code, first.json["reversed_at"]) == (0, 0, again.json["reversed_at"])
