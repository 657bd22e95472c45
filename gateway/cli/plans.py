"""`tallygate plan`: prices by plan and version, which applies when, and announcing new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway import config
from gateway.cli import client, values
from gateway.cli.output import (
    CliError,
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    note,
    write_file,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="Plans, the versions of their prices, and moves between them.")

PLAN_COLUMNS = ("plan", "version", "effective_from", "existing_from", "in_force", "minimum", "told")
PRICE_COLUMNS = ("plan", "day", "version", "because", "price", "minimum", "quantity", "total")
CHARGE_COLUMNS = ("kind", "tier", "quantity", "unit_price", "amount")
SUBSCRIPTION_COLUMNS = (
    "key_id",
    "account_id",
    "plan",
    "site",
    "started_on",
    "trial_until",
    "closed_on",
    "version_today",
    "because",
    "moves",
    "gaps",
)
PlanArgument = Annotated[str, typer.Argument(help="A plan of the configuration, such as K1.")]
FileArgument = Annotated[
    Path, typer.Argument(help="A file of price lists (TOML).", exists=True, dir_okay=False, readable=True)
]


@app.command("list")
def list_(context: typer.Context, form: FormatOption = Format.TABLE) -> None:
    """List the plans with the versions of their prices."""
    plans = client.of(context).call("GET", "/v1/plans")["items"]
    rows: list[dict[str, Any]] = []
    for plan in plans:
        shown = plan["versions"] or [{"told": "no price"}]
        rows += [{"plan": plan["plan"], **version} for version in shown]
    write_rows(rows, PLAN_COLUMNS, form, numbers=("version", "minimum"))


@app.command()
def show(context: typer.Context, plan: PlanArgument, form: FormatOption = Format.TABLE) -> None:
    """Show the versions of a plan's price."""
    found = client.of(context).call("GET", f"/v1/plans/{client.segment(plan)}")
    rows = [{"plan": plan, **version} for version in found["versions"]]
    write_rows(rows, PLAN_COLUMNS, form, numbers=("version", "minimum"))


@app.command()
def price(
    context: typer.Context,
    plan: PlanArgument,
    day: Annotated[str | None, typer.Option(help="As 2026-10-05. Default: today.")] = None,
    key: Annotated[str | None, typer.Option(help="A subscription's price, by its key.")] = None,
    quantity: Annotated[int | None, typer.Option(min=0, help="What so many units of a month cost.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say which price applies on a day and why, and what a quantity costs."""
    query = values.given(
        day=None if day is None else values.day(day, "--day"),
        key=key,
        quantity=None if quantity is None else str(quantity),
    )
    found = client.of(context).call("GET", f"/v1/plans/{client.segment(plan)}/price", query=query)
    if form is Format.JSON:
        write_one(found, PRICE_COLUMNS, form)
        return
    version = found["version"]
    summary = found | {
        "version": version["version"],
        "price": version["told"],
        "minimum": f"{version['minimum']} {version['currency']} a month",
    }
    write_one(summary, PRICE_COLUMNS if quantity is not None else PRICE_COLUMNS[:-2], form)
    if found["lines"] and form is Format.TABLE:
        numbers = ("quantity", "unit_price", "amount")
        write_rows(found["lines"], CHARGE_COLUMNS, form, numbers=numbers)


@app.command()
def apply(
    context: typer.Context, file: FileArgument, yes: YesOption = False, dry_run: DryRunOption = False
) -> None:
    """Add the versions of prices that a file holds, after showing the difference."""
    connection = client.of(context)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read as UTF-8 text: {error}") from error
    planned = connection.call("POST", "/v1/plans/apply", {"toml": text, "dry_run": True})
    for line in planned["told"]:
        typer.echo(line)
    if not planned["added"]:
        note("Nothing is to be added.")
        return
    what = f"Announce {', '.join(planned['added'])}. What is announced never changes."
    if confirmed(what, yes=yes, dry_run=dry_run):
        done = connection.call("POST", "/v1/plans/apply", {"toml": text})
        note(f"Added {', '.join(done['added']) or 'nothing'}; {done['notices']} customers are told.")


@app.command()
def example() -> None:
    """Print an example of price lists to start from, with every field explained."""
    write_file(config.catalogue_example_path())


@app.command()
def announce(context: typer.Context, plan: PlanArgument, dry_run: DryRunOption = False) -> None:
    """Tell of a plan's coming prices whoever has not been told, such as customers that came since."""
    path = f"/v1/plans/{client.segment(plan)}/announce"
    done = client.of(context).call("POST", path, {}, dry_run=dry_run)
    for line in done["told"]:
        typer.echo(line)
    note(f"{done['notices']} customers {'would be' if dry_run else 'are'} told.")


@app.command()
def subscriptions(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List subscriptions with the version that applies today."""
    query = values.given(account=account)
    rows = client.of(context).pages("/v1/subscriptions", query, limit)
    write_rows(rows, SUBSCRIPTION_COLUMNS, form)


@app.command()
def move(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, key_...")],
    version: Annotated[int, typer.Option("--to", min=1, help="The version to move to.")],
    first_day: Annotated[str, typer.Option("--from", help="The first day, as 2026-12-01.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Move a subscription to a newer version of its price, from a day on."""
    day = values.day(first_day, "--from")
    connection, once = client.of(context), client.new_idempotency_key()
    body = {"version": version, "first_day": day}
    path = f"/v1/subscriptions/{client.segment(key)}/move"
    connection.rehearsed("POST", path, body)
    confirmed(f"Move {key} to version {version} from {day} on.", yes=yes, dry_run=dry_run)
    moved = connection.call("POST", path, body, idempotency_key=once, dry_run=dry_run)
    write_one(moved, SUBSCRIPTION_COLUMNS, form)
