"""`tallygate serve`, `check` and `demo`: what runs without the control API."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from gateway import config, supervisor
from gateway.cli import client
from gateway.cli.output import CliError, note
from gateway.config import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(check)
    app.command()(demo)


def serve(
    context: typer.Context,
    demo: Annotated[
        bool | None,
        typer.Option(
            "--demo/--no-demo",
            help="Run the demo marketplace as the upstream named demo; default without --config.",
        ),
    ] = None,
) -> None:
    """Serve until told to stop; without --config, embedded stores and the demo marketplace."""
    connection = client.of(context)
    raise typer.Exit(supervisor.serve(connection.config_path, connection.environ, demo=demo))


def check(context: typer.Context) -> None:
    """Name everything that is wrong with a configuration, starting nothing."""
    connection = client.of(context)
    try:
        settings = config.load(connection.config_path, connection.environ, keep_pepper=False)
    except ConfigError as error:
        raise CliError(str(error)) from error
    source = connection.config_path or "The built-in configuration"
    names = sum(len(rule.match) for rule in settings.methods.rules)
    note(
        f"{source} is right: {len(settings.routes)} routes, {len(settings.upstreams)} upstreams, "
        f"{names} methods, {len(settings.contract.plans)} plans."
    )


def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8090,
) -> None:
    """Run the demo marketplace alone: an upstream to try the gateway with."""
    # A program of its own: the gateway knows it by its command line only.
    status = subprocess.run([sys.executable, "-m", "demo", "--port", str(port)], check=False).returncode  # noqa: S603
    raise typer.Exit(status if status in (0, 1, 2) else 1)
