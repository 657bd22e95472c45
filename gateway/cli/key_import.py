"""`tallygate key import`: keys that were issued elsewhere, out of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli import client, values
from gateway.cli.client import ApiError
from gateway.cli.output import CliError, DryRunOption, err, note
from gateway.validation import suggestion
from policies.keys import is_well_formed

BATCH = 2500
SHOWN_ERRORS = 50
TEXT_COLUMNS = ("account_id", "plan", "site", "label", "window", "default_provider", "default_search_method")
LIST_COLUMNS = ("allow_networks", "allow_domains")  # their entries stand with blanks between them
COLUMNS = (
    "credential",
    *TEXT_COLUMNS,
    "signing_secret",
    "daily_limit",
    "unlimited",
    "purchased_at",
    "expires_at",
    *LIST_COLUMNS,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the file, numbered as an editor shows it."""

    line: int
    body: dict[str, Any]


def import_(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help=f"CSV with a header. Columns: {', '.join(COLUMNS)}.", exists=True, dir_okay=False
        ),
    ],
    account: Annotated[str | None, typer.Option(help="Account of rows that name none.")] = None,
    plan: Annotated[str | None, typer.Option(help="Plan of rows that name none.")] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Pass over keys that are in use already.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Take over keys from a CSV file, each as it is; a batch of 2,500 is taken whole or not at all."""
    rows = read(file, account, plan)
    done = skipped = 0
    bar = Progress(
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
    )
    with bar:
        task = bar.add_task("import", total=len(rows))
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            try:
                kept = _import_batch(client.of(context), batch, skip_existing, dry_run)
            except CliError as error:
                were = "would be" if dry_run else "were"
                raise CliError(f"{error}\n{done} of {len(rows)} keys {were} imported before this.") from error
            done += kept
            skipped += len(batch) - kept
            bar.advance(task, len(batch))
    note(
        f"{'Would import' if dry_run else 'Imported'} {done} keys."
        + (f" {skipped} were in use already." if skipped else "")
    )


def read(file: Path, account: str | None, plan: str | None) -> list[Row]:
    """Read the file; raises CliError that names every line that is wrong, and no key's text."""
    errors: list[str] = []
    rows: list[Row] = []
    seen: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            header = reader.fieldnames or []
            for name in header:
                if name not in COLUMNS:
                    errors.append(f"line 1: there is no column {name!r}{suggestion(name, COLUMNS)}")
            if "credential" not in header:
                errors.append("line 1: the column 'credential' with the keys' text is missing")
            if errors:
                raise CliError(_listed(file, errors))
            for fields in reader:
                row = Row(reader.line_num, _body(fields, account, plan, errors, reader.line_num))
                text = row.body.get("credential", "")
                if text and text in seen:
                    errors.append(f"line {row.line}: the same key stands in line {seen[text]}")
                seen.setdefault(text, row.line)
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise CliError(f"{file} is no CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from error
    if not rows and not errors:
        errors.append("there are no keys in it")
    if errors:
        raise CliError(_listed(file, errors))
    return rows


def _body(
    fields: dict[str, Any], account: str | None, plan: str | None, errors: list[str], line: int
) -> dict[str, Any]:
    if fields.pop(None, None) is not None or None in fields.values():  # type: ignore[call-overload]
        errors.append(f"line {line}: has not as many cells as the header")
    body: dict[str, Any] = values.given(account_id=account, plan=plan)
    body |= {name: value.strip() for name, value in fields.items() if value and value.strip()}
    for name, option in (("account_id", "--account"), ("plan", "--plan")):
        if name not in body:
            errors.append(f"line {line}: {name} is empty, and {option} was not given")
    if not is_well_formed(body.get("credential", "")):
        errors.append(
            f"line {line}: credential is no key: 8 to 256 visible ASCII characters, no mistyped tg_ key"
        )
    if "daily_limit" in body:
        if body["daily_limit"].isascii() and body["daily_limit"].isdigit():
            body["daily_limit"] = int(body["daily_limit"])
        else:
            errors.append(f"line {line}: daily_limit must be a number of units")
    if "unlimited" in body:
        if body["unlimited"].lower() not in ("true", "false", "yes", "no"):
            errors.append(f"line {line}: unlimited must be true or false")
        body["unlimited"] = body["unlimited"].lower() in ("true", "yes")
    for name in LIST_COLUMNS:
        if name in body:
            body[name] = body[name].split()
    for name in ("purchased_at", "expires_at"):
        if name in body:
            try:
                body[name] = values.instant(body[name], name)
            except typer.BadParameter as error:
                errors.append(f"line {line}: {name}: {error.message}")
    return body


def _import_batch(
    connection: client.Connection, batch: Sequence[Row], skip_existing: bool, dry_run: bool
) -> int:
    """Import a batch and return how many keys it made, or would make."""
    try:
        body = {"keys": [row.body for row in batch]}
        connection.call("POST", "/v1/keys/import", body, dry_run=dry_run)
    except ApiError as error:
        places = dict(enumerate(batch, 1))
        told = [(_place(each["field"]), each["field"], each["message"]) for each in error.errors]
        if not told:
            raise
        if skip_existing and error.status == 409:
            taken = {place for place, _, _ in told}
            fresh = [row for place, row in places.items() if place not in taken]
            return _import_batch(connection, fresh, skip_existing, dry_run) if fresh else 0
        lines = [
            f"line {places[place].line}: {field.rpartition('.')[2]} {message}"
            if place in places
            else f"{field} {message}"
            for place, field, message in told
        ]
        hint = "\nWith --skip-existing they are passed over." if error.status == 409 else ""
        raise CliError("The keys were not imported:\n" + _indented(lines) + hint) from error
    return len(batch)


def _place(field: str) -> int | None:
    """Return the place in the batch that `body.keys[7].plan` names, counted from 1."""
    _, _, rest = field.partition("keys[")
    number = rest.partition("]")[0]
    return int(number) if number.isdigit() else None


def _listed(file: Path, errors: Sequence[str]) -> str:
    return f"{file} cannot be imported:\n{_indented(errors)}"


def _indented(lines: Sequence[str]) -> str:
    shown = [f"  {line}" for line in lines[:SHOWN_ERRORS]]
    if len(lines) > SHOWN_ERRORS:
        shown.append(f"  and {len(lines) - SHOWN_ERRORS} more")
    return "\n".join(shown)
