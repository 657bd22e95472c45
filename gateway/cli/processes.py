"""`tallygate serve`, `restart`, `check` and `demo`: what runs without the control API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from gateway import config, data_dir, run_state, supervisor
from gateway.cli import client
from gateway.cli.output import CliError, note, write_file
from gateway.config import ConfigError
from gateway.run_state import RunState

RESTART_POLL_S = 0.1


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(restart)
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


def restart(
    context: typer.Context,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Seconds to wait for the end; it goes on regardless.")
    ] = 600.0,
) -> None:
    """Replace all processes of a running `serve` one by one, calls going on.

    The ledger is migrated first, then each process is replaced by one that runs what is installed now and
    reads the configuration anew. Works on the machine that serves.
    """
    place = client.of(context).settings.stores.data_dir
    try:
        process = data_dir.holder(place)
    except OSError as error:
        raise CliError(f"{place} cannot be read ({error.strerror}); be the user that serves.") from error
    before = None if process is None else run_state.read(place / "run")
    if process is None or before is None:
        raise CliError(f"Nothing serves from {place}. Start it with `tallygate serve`.")
    try:
        os.kill(process, signal.SIGUSR2)
    except PermissionError as error:
        raise CliError(f"Process {process} belongs to another user; be the one that serves.") from error
    _follow(place, before, timeout_s)


def _follow(place: Path, before: RunState, timeout_s: float) -> None:
    """Tell of each process that is replaced, until all are."""
    known = {each.name: each.pid for each in (*before.others, *before.workers)}
    ends = time.monotonic() + timeout_s
    while True:
        now = run_state.read(place / "run")
        if now is None or data_dir.holder(place) is None:
            raise CliError("It was stopped meanwhile.")
        for each in (*now.others, *now.workers):
            if each.pid is not None and each.pid != known.get(each.name):
                known[each.name] = each.pid
                note(f"{each.name} is replaced: process {each.pid}.")
        if now.roll.number > before.roll.number and now.roll.state == "done":
            note("All processes are replaced.")
            return
        if now.roll.number > before.roll.number and now.roll.state == "failed":
            raise CliError(f"Broken off; what was not replaced goes on.\n{now.roll.detail}")
        if time.monotonic() > ends:
            raise CliError(f"Not done after {timeout_s:.0f} s, and going on; see the log.")
        time.sleep(RESTART_POLL_S)


def check(
    context: typer.Context,
    example: Annotated[
        bool,
        typer.Option("--example", help="Print the example to start from, with every setting explained."),
    ] = False,
) -> None:
    """Name everything that is wrong with a configuration, starting nothing."""
    if example:
        write_file(config.example_path())
        return
    connection = client.of(context)
    source = connection.config_path or "The built-in configuration"
    try:
        settings = config.load(connection.config_path, connection.environ, keep_pepper=False)
        place = settings.stores.data_dir
        if (why := data_dir.why_unusable(place)) is not None:
            raise ConfigError(str(source), [f"stores.data_dir: {place} cannot be used: {why}"])
    except ConfigError as error:
        raise CliError(str(error)) from error
    for caution in settings.cautions:
        note(f"Caution: {caution}.")
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
