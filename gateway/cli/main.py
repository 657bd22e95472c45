"""The program: all commands under one roof, and every failure as a sentence instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.build import BUILD
from gateway.cli import (
    accounts,
    audit,
    backups,
    bills,
    disputes,
    exports,
    interruptions,
    jobs,
    keys,
    months,
    notices,
    passing_over,
    payments,
    peppers,
    plans,
    processes,
    rehearse,
    tokens,
    usage,
)
from gateway.cli.client import Connection
from gateway.cli.output import CliError, report
from gateway.config import ConfigError

# Options that hold for every command, and may stand anywhere on the line.
GLOBAL_OPTIONS = ("--url", "--token", "--config")


class _Commands(TyperGroup):
    """The commands; a wrong value is told without the words of what checks values."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="tallygate",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=True,
    help="An API-key gateway that counts every call exactly.",
    epilog="--url, --token and --config may stand anywhere. Exit codes: 0 done, 1 failed, 2 typed wrong.",
)
app.add_typer(accounts.app, name="account")
app.add_typer(keys.app, name="key")
app.add_typer(plans.app, name="plan")
app.add_typer(bills.app, name="bill")
app.add_typer(exports.app, name="export")
app.add_typer(interruptions.app, name="interruption")
app.add_typer(notices.app, name="notice")
app.add_typer(notices.webhooks, name="webhook")
app.add_typer(tokens.app, name="token")
app.add_typer(peppers.app, name="pepper")
app.add_typer(audit.app, name="audit")
app.add_typer(backups.app, name="backup")
payments.register(bills.app)
disputes.register(bills.app)
months.register(bills.app)
passing_over.register(bills.app)
usage.register(app)
exports.register(app)
jobs.register(app)
processes.register(app)
backups.register(app)
rehearse.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(BUILD)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            help="Address of the control API. Default: that of the configuration.", envvar="TALLYGATE_URL"
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Control token. Default: the file control-token in the data directory.",
            envvar="TALLYGATE_TOKEN",
            show_envvar=True,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Configuration file. Default: embedded stores and the demo.", envvar="TALLYGATE_CONFIG"
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version, whether the data path is compiled, and Python's.",
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take down what holds for every command."""
    context.obj = Connection(url, token, config, os.environ)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        app(args=hoisted(arguments), prog_name="tallygate")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except (CliError, ConfigError) as error:
        report(str(error))
        return 1
    return 0


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the global options in front, wherever they stood before a `--`."""
    front: list[str] = []
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return [*front, *rest, argument, *remaining]
        if argument in GLOBAL_OPTIONS and remaining:
            front += [argument, remaining.pop(0)]
        elif argument.startswith(tuple(f"{option}=" for option in GLOBAL_OPTIONS)):
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest
