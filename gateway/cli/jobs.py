"""`tallygate rollup` and `tallygate rebuild`: jobs that otherwise run by themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import client
from gateway.cli.output import DryRunOption, Format, FormatOption, YesOption, confirmed, write_one


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(rollup)
    app.command()(rebuild)


def rollup(
    context: typer.Context,
    full: Annotated[
        bool, typer.Option("--full", help="Look at every counter, not only at changed ones.")
    ] = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Write the counters to the ledger now; doing it again changes nothing."""
    if dry_run:
        which = "every counter" if full else "counters that changed"
        confirmed(f"Write {which} to the ledger, where rows only ever rise.", yes=True, dry_run=True)
        return
    told = client.of(context).call("POST", "/v1/rollup", {"full": full}, timeout_s=client.LONG_S)
    write_one(told, tuple(told), form)


def rebuild(
    context: typer.Context,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Fill Redis from the ledger: the counters of these days, and all keys."""
    what = "Restore counters and keys in Redis from the ledger; counters only ever rise."
    if confirmed(what, yes=yes, dry_run=dry_run):
        told = client.of(context).call("POST", "/v1/rebuild", {}, timeout_s=client.LONG_S)
        write_one(told, tuple(told), form)
