"""`tallygate interruption`: when another server took over the counters, and what was decided about it."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import client, values
from gateway.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="When another server took over the counters.")

COLUMNS = ("id", "kind", "evidence", "open", "since", "until", "former_address", "address")
WHOLE_COLUMNS = (
    *COLUMNS,
    "shards",
    "seen_offset",
    "reached_offset",
    "explanation",
    "acknowledged_at",
    "acknowledged_by",
    "reason",
)

InterruptionArgument = Annotated[
    str, typer.Argument(metavar="INTERRUPTION", help="The interruption's id, int_...")
]


@app.command("list")
def list_(
    context: typer.Context,
    period: Annotated[str | None, typer.Option(help="Only of this month, as 2026-10.")] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only those that lost counts, maybe, and nobody acknowledged.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List interruptions, the oldest first."""
    month = None if period is None else values.month(period, "--period")
    query = values.given(period=month, open="true" if only_open else None)
    write_rows(client.of(context).pages("/v1/interruptions", query, limit), COLUMNS, form)


@app.command()
def show(
    context: typer.Context, interruption: InterruptionArgument, form: FormatOption = Format.TABLE
) -> None:
    """Show an interruption: which keys, from when to when, and what is known of their counts."""
    path = f"/v1/interruptions/{client.segment(interruption)}"
    write_one(client.of(context).call("GET", path), WHOLE_COLUMNS, form)


@app.command()
def acknowledge(
    context: typer.Context,
    interruption: InterruptionArgument,
    reason: Annotated[str, typer.Option(help="What was found and done; it stands in the audit log.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Note what was decided about an interruption; `reconcile` names it no more."""
    connection = client.of(context)
    path = f"/v1/interruptions/{client.segment(interruption)}/acknowledge"
    connection.rehearsed("POST", path, {"reason": reason})
    confirmed(f"Acknowledge {interruption}, for good.", yes=yes, dry_run=dry_run)
    done = connection.call("POST", path, {"reason": reason}, dry_run=dry_run)
    write_one(done, WHOLE_COLUMNS, form)
