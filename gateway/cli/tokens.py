"""`tallygate token`: tokens of the control API."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

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
    write_one,
    write_rows,
)
from gateway.control.auth import Role, issue_token, token_digest
from gateway.settings import Settings
from gateway.stores import EmbeddedPostgres
from metering.ledger import make_engine, tokens
from metering.ledger.audit import Author

app = typer.Typer(no_args_is_help=True, help="Tokens of the control API.")

COLUMNS = ("id", "name", "role", "created_at", "created_by", "expires_at", "revoked_at")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what uses it; it stands in the audit log.")],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    expires_at: Annotated[str | None, typer.Option(help=values.INSTANT_HELP)] = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="Write into the ledger itself, when there is no token to begin with."),
    ] = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make a token and show its text, this once."""
    ends = None if expires_at is None else values.instant(expires_at, "--expires-at")
    connection = client.of(context)
    if dry_run:
        until = f" until {ends}" if ends else ""
        confirmed(f"Make a token for {name} with the role {role}{until}.", yes=True, dry_run=True)
    if local and dry_run:
        return
    if local:
        settings = config.load(connection.config_path, connection.environ)
        made = asyncio.run(_create_locally(settings, name, role, ends))
    else:
        body = values.given(name=name, role=role.value, expires_at=ends)
        made = connection.call("POST", "/v1/tokens", body, dry_run=dry_run)
    write_one(made, ("token", *COLUMNS), form)
    if not dry_run:
        note("Keep the token now: it is not stored and cannot be shown again.")


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List tokens, the oldest first."""
    write_rows(client.of(context).pages("/v1/tokens", {}, limit), COLUMNS, form)


@app.command()
def revoke(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token's id, tok_...")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """End a token at once."""
    if not token.startswith("tok_"):
        raise CliError(
            "A token is named by its id (tok_ and 16 digits), not by its text; see `tallygate token list`."
        )
    connection, path = client.of(context), f"/v1/tokens/{client.segment(token)}"
    named = connection.rehearsed("DELETE", path)
    what = f"End token {token} ({named['name']}, {named['role']}) at once and for good."
    confirmed(what, yes=yes, dry_run=dry_run)
    ended = connection.call("DELETE", path, dry_run=dry_run)
    write_one(ended, COLUMNS, form)


async def _create_locally(settings: Settings, name: str, role: Role, ends: str | None) -> dict[str, Any]:
    stores = settings.stores
    engine = make_engine(stores.database_url or _embedded_url(stores.data_dir), pool_size=1)
    text = issue_token()
    try:
        async with engine.begin() as connection:
            made = await tokens.create(
                connection,
                name=name,
                role=role,
                digest=token_digest(text, settings.security),
                pepper_id=settings.security.peppers[0][0],
                expires_at=None if ends is None else datetime.fromisoformat(ends),
                now=datetime.now(UTC),
                by=Author("command line"),
            )
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise CliError(
            f"The ledger cannot be reached ({type(error).__name__}).\n"
            "An embedded one runs only while `tallygate serve` does."
        ) from error
    finally:
        await engine.dispose()
    shown = {column: getattr(made, column) for column in COLUMNS}
    plain = {
        column: value.isoformat() if isinstance(value, datetime) else value for column, value in shown.items()
    }
    return {"token": text, **plain}


def _embedded_url(data_dir: Path) -> str:
    """Return the URL of the ledger that a running `tallygate serve` keeps in a data directory."""
    try:
        return EmbeddedPostgres(data_dir, (data_dir / "run").resolve()).url
    except OSError as error:
        raise CliError(
            f"There is no embedded ledger in {data_dir}; start `tallygate serve` there first."
        ) from error
