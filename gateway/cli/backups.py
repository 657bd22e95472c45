"""`tallygate backup` and `tallygate restore`: the ledger into a file, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway.backup import archive, make
from gateway.backup import restore as restoring
from gateway.backup.archive import Manifest
from gateway.backup.postgres import BackupError
from gateway.cli import client
from gateway.cli.output import (
    CliError,
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    err,
    note,
    write_one,
    write_rows,
)
from metering.ledger.inventory import Inventory

COLUMNS = ("file", "made_at", "bytes", "schema", "rows", "rolled_up_at", "peppers", "journals")

app = typer.Typer(no_args_is_help=True, help="Backups of the ledger; they hold no secret.")


def register(app: typer.Typer) -> None:
    """Add the command that is no part of a group."""
    app.command()(restore)


@app.command()
def create(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Write the ledger, the configuration and open journals to a file, calls and billing going on.

    Peppers are not in it: keep them elsewhere, or the keys in the backup open nothing.
    """
    connection = client.of(context)
    with _failures(), _progress("Backing up") as told:
        manifest = make.make(connection.settings, connection.config_path, output, told, warned=note)
    write_one(_told(output, manifest), COLUMNS, form)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Check a backup against its checksums and say what it holds; needs no gateway."""
    with _failures():
        manifest = archive.read(file)
    write_one(_told(file, manifest), COLUMNS, form)


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The backup.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a ledger that is not empty; what it holds is lost.")
    ] = False,
    new_pepper: Annotated[
        bool,
        typer.Option(
            "--new-pepper", help="Restore although the pepper is lost; every key has to be rotated."
        ),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Put a backup's ledger in place of the one there, with the gateway stopped.

    All of it or nothing; then the rows are compared with the backup's, and the schema is brought up to date.
    The next start makes Redis fit.
    """

    def agreed(manifest: Manifest, there: Inventory) -> bool:
        held = manifest.ledger.rows
        names = [name for name in sorted({*held, *there.rows}) if held.get(name) or there.rows.get(name)]
        rows = [
            {"table": name, "there": there.rows.get(name, 0), "backup": held.get(name, 0)} for name in names
        ]
        write_rows(rows, ("table", "there", "backup"), Format.TABLE, numbers=("there", "backup"))
        if not there.is_empty and not replace and not dry_run:
            raise CliError("The ledger is not empty. Add --replace to lose what it holds; back it up before.")
        what = f"restore the ledger as of {manifest.made_at}"
        lost = sum(there.rows.values())
        return confirmed(what + (f", in place of {lost} rows" if lost else ""), yes=yes, dry_run=dry_run)

    connection = client.of(context)
    with _failures():
        done = restoring.restore(
            connection.settings,
            file,
            new_pepper=new_pepper,
            agreed=agreed,
            told=lambda what: note(f"Restoring: {what}"),
        )
    if done is None:
        return
    note(f"Restored {done.rows} rows, schema {done.revision}; the rows are those of the backup.")
    if done.new_token:
        note("A new admin token is in the data directory, in control-token.")
    if done.journals:
        note(f"{done.journals} journals were put back; they are brought in after the next start.")
    note("Start the gateway: it makes Redis fit. Then: tallygate reconcile --period MONTH")
    note("Numbers of invoices sent since the backup would be given again: tallygate bill pass-over NUMBER")


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except BackupError as error:
        raise CliError(str(error)) from error


@contextmanager
def _progress(title: str) -> Iterator[Any]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(title)
        yield lambda what: bar.update(task, description=f"{title}: {what}")


def _told(file: Path, manifest: Manifest) -> dict[str, Any]:
    mark = manifest.ledger.rolled_up_ms
    return {
        "file": str(file),
        "made_at": manifest.made_at,
        "bytes": file.stat().st_size,
        "schema": manifest.ledger.revision,
        "rows": sum(manifest.ledger.rows.values()),
        "rolled_up_at": datetime.fromtimestamp(mark / 1000, UTC).isoformat(timespec="seconds")
        if mark
        else None,
        "peppers": list(manifest.peppers),
        "journals": sum(name.startswith(archive.JOURNALS) for name in manifest.files),
    }
