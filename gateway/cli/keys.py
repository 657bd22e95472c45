"""`tallygate key`: make, change, rotate, hold and end keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli import client, key_import, values
from gateway.cli.key_options import takes_fields
from gateway.cli.output import (
    CliError,
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    note,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="Keys: made, changed, rotated, held and ended.")
app.command("import")(key_import.import_)

LIST_COLUMNS = ("id", "hint", "account_id", "plan", "site", "standing", "limit_now", "label")
COLUMNS = (
    "id",
    "account_id",
    "plan",
    "site",
    "label",
    "standing",
    "limit_now",
    "window_now",
    "used_now",
    "in_trial",
    "hint",
    "signed",
    "created_at",
    "purchased_at",
    "expires_at",
    "oldest_unpaid_issued_on",
    "suspended_at",
    "suspended_reason",
    "revoked_at",
    "closed_at",
    "default_provider",
    "default_search_method",
    "allow_networks",
    "allow_domains",
    "in_force",
)
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, key_...")]


@app.command()
@takes_fields
def create(
    context: typer.Context,
    account: Annotated[str, typer.Option(help="The account's id, acc_...")],
    plan: Annotated[str, typer.Option(help="A plan of the configuration, such as K1.")],
    fields: dict[str, Any],
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make a key and show its text, this once."""
    body = {"account_id": account, "plan": plan, **fields}
    if dry_run:
        confirmed(f"Make a key of plan {plan} for {account}.", yes=True, dry_run=True)
    made = client.of(context).call("POST", "/v1/keys", body, dry_run=dry_run)
    _write(made, form, first=("key",))
    if not dry_run:
        _tell_once(made)


@app.command("list")
def list_(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    pepper: Annotated[
        str | None, typer.Option(help="Only those with a text known under this pepper alone.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List keys, the oldest first."""
    found = client.of(context).pages("/v1/keys", values.given(account=account, pepper=pepper), limit)
    write_rows(map(_with_hint, found), LIST_COLUMNS, form, numbers=("limit_now",))


@app.command()
def show(context: typer.Context, key: KeyArgument, form: FormatOption = Format.TABLE) -> None:
    """Show a key, its standing, its limit and what it used today."""
    _write(client.of(context).call("GET", _path(key)), form)


@app.command("set")
@takes_fields
def set_(
    context: typer.Context,
    key: KeyArgument,
    fields: dict[str, Any],
    unpaid_since: Annotated[
        str | None,
        typer.Option(help="Day of the oldest unpaid invoice (2026-11-10), or none when all is paid."),
    ] = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Change a key; in force from its next call on."""
    body = dict(fields)
    if unpaid_since is not None:
        day = None if values.cleared(unpaid_since) else values.day(unpaid_since, "--unpaid-since")
        body["oldest_unpaid_issued_on"] = day
    if not body:
        raise typer.BadParameter("say what to set, such as --daily-limit 100000; see --help")
    connection = client.of(context)
    if dry_run:
        named = ", ".join(name.replace("_", " ") for name in body)
        confirmed(f"Change {named} of {_named(connection, key)}.", yes=True, dry_run=True)
    changed = connection.call("PATCH", _path(key), body, dry_run=dry_run)
    _write(changed, form)
    if not dry_run:
        _tell_force(changed)


@app.command()
def rotate(
    context: typer.Context,
    key: KeyArgument,
    overlap: Annotated[
        float, typer.Option(min=0, help="Seconds for which the old text is still accepted; default a day.")
    ] = 86_400.0,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Give a key a new text, shown this once."""
    until = f"is accepted for {overlap:g} s more" if overlap else "ends at once"
    connection = client.of(context)
    what = f"Give {_named(connection, key)} a new text; the old one {until}."
    confirmed(what, yes=yes, dry_run=dry_run)
    rotated = connection.call("POST", f"{_path(key)}/rotate", {"overlap_s": overlap}, dry_run=dry_run)
    _write(rotated, form, first=("key",))
    if not dry_run:
        _tell_once(rotated)


@app.command()
def revoke(
    context: typer.Context,
    key: KeyArgument,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """End a key at once and for good."""
    _change(context, key, "revoke", {}, "End {} at once and for good.", yes, dry_run, form)


@app.command()
def suspend(
    context: typer.Context,
    key: KeyArgument,
    reason: Annotated[str | None, typer.Option(help="Why; shown to operators.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Hold a key: every call is refused until it is resumed."""
    body = values.given(reason=reason)
    _change(context, key, "suspend", body, "Refuse every call of {} until it is resumed.", yes, dry_run, form)


@app.command()
def resume(
    context: typer.Context,
    key: KeyArgument,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Let go of a key that was held."""
    _change(context, key, "resume", {}, "Accept calls of {} again.", True, dry_run, form)


@app.command()
def close(
    context: typer.Context,
    key: KeyArgument,
    at: Annotated[
        str | None, typer.Option(help=f"When its service ends; default now. {values.INSTANT_HELP}")
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """End a key's service; it is billed up to that moment."""
    body = {} if at is None else {"at": values.instant(at, "--at")}
    what = f"End the service of {{}} {'now' if at is None else 'at ' + body['at']}."
    _change(context, key, "close", body, what, yes, dry_run, form)


def _change(
    context: typer.Context,
    key: str,
    action: str,
    body: dict[str, Any],
    what: str,
    yes: bool,
    dry_run: bool,
    form: Format,
) -> None:
    connection = client.of(context)
    confirmed(what.format(_named(connection, key)), yes=yes, dry_run=dry_run)
    changed = connection.call("POST", f"{_path(key)}/{action}", body, dry_run=dry_run)
    _write(changed, form)
    if not dry_run:
        _tell_force(changed)


def _path(key: str) -> str:
    if not key.startswith("key_"):
        raise CliError(
            "A key is named by its id (key_ and 16 digits), not by its text; see `tallygate key list`."
        )
    return f"/v1/keys/{client.segment(key)}"


def _named(connection: client.Connection, key: str) -> str:
    """Say which key is meant, so that a mistyped id is noticed before anything is done."""
    found = connection.call("GET", _path(key))
    site = f" for {found['site']}" if found["site"] else ""
    return (
        f"key {found['id']} (...{_with_hint(found)['hint']}, plan {found['plan']}{site}, {found['standing']})"
    )


def _with_hint(key: dict[str, Any]) -> dict[str, Any]:
    return key | {"hint": key["credentials"][0]["hint"] if key["credentials"] else None}


def _write(key: dict[str, Any], form: Format, first: tuple[str, ...] = ()) -> None:
    write_one(key if form is Format.JSON else _with_hint(key), (*first, *COLUMNS), form)


def _tell_once(key: dict[str, Any]) -> None:
    note("Keep the key now: it is not stored and cannot be shown again.")
    _tell_force(key)


def _tell_force(key: dict[str, Any]) -> None:
    if not key["in_force"]:
        note("Redis cannot be reached: the change is kept and comes into force once it can.")
