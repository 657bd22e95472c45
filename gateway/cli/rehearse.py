"""`tallygate rehearse`: months of billing with made-up customers, in seconds."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer
import uvloop
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import SQLAlchemyError

from gateway import collector, config, throwaway
from gateway.cli import client
from gateway.cli.output import CliError, err
from gateway.control.terms import terms_of
from gateway.settings import Settings
from gateway.stores import StoreError
from metering.ledger import scratch
from metering.rehearsal import Report
from metering.rehearsal import rehearse as run
from policies.period import Period, parse_period


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(rehearse)


def rehearse(
    context: typer.Context,
    first: Annotated[str, typer.Option("--from", help="The first month, as 2026-01.")],
    last: Annotated[str, typer.Option("--to", help="The month before which it ends, as 2027-01.")],
    customers: Annotated[int, typer.Option(min=1, max=100_000, help="How many take part.")] = 100,
    seed: Annotated[int, typer.Option(help="Another seed makes other customers.")] = 1,
) -> None:
    """Run made-up customers through months of the configured contract, on a ledger to throw away.

    Late payers, disputes, new prices, free months and counts that come late: prints what each customer was
    charged and how it stood when, and checks that all of it adds up. Equal arguments print equal bytes. The
    exit code is 1 when a check fails.
    """
    connection = client.of(context)
    settings = config.load(connection.config_path, connection.environ, keep_pepper=False)
    span = _span(first, last)
    try:
        with contextlib.ExitStack() as stack:
            url = settings.stores.database_url or stack.enter_context(throwaway.postgres())
            stack.enter_context(collector.seldom())
            report = uvloop.run(_run(url, settings, span, customers, seed))
    except StoreError as error:
        raise CliError(str(error)) from error
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise CliError(
            f"A database for the rehearsal cannot be made or used ({type(error).__name__}).\n"
            "The role of the ledger's URL needs the right to create databases."
        ) from error
    sys.stdout.writelines(f"{line}\n" for line in report.lines())
    if not report.holds:
        raise typer.Exit(1)


def _span(first: str, last: str) -> Period:
    """Return the months from `first` to the one before `last`; raises BadParameter."""
    begins, ends = _month(first, "--from"), _month(last, "--to")
    if ends.first <= begins.first:
        raise typer.BadParameter(f"{last} does not come after {first}", param_hint="--to")
    return Period(begins.first, ends.first)


def _month(text: str, option: str) -> Period:
    try:
        if len(text) == len("2026-01"):
            return parse_period(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    raise typer.BadParameter(f"{text!r} is not a month: write it as 2026-01", param_hint=option)


async def _run(url: str, settings: Settings, span: Period, customers: int, seed: int) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=err()) as bar:
        task = bar.add_task("Days of the rehearsal")
        async with scratch.beside(url) as engine:
            return await run(
                engine,
                span,
                terms=terms_of(settings),
                customers=customers,
                seed=seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
