"""`tallygate bill pass-over`: numbers that customers have and the ledger does not know."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import client
from gateway.cli.output import DryRunOption, Format, FormatOption, YesOption, confirmed, write_one


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pass-over")(pass_over)


def pass_over(
    context: typer.Context,
    through: Annotated[
        str,
        typer.Argument(metavar="NUMBER", help="The last one that customers have: INV-000123, CRN-000007."),
    ],
    reason: Annotated[str, typer.Option(help="Why; it stands in the audit log.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Never give numbers again that were given out before the ledger came from a backup."""
    connection = client.of(context)
    body = {"through": through.upper(), "reason": reason}
    path, key = "/v1/numbers/pass-over", client.new_idempotency_key()
    planned = connection.call("POST", path, body, idempotency_key=key, dry_run=True)
    what = f"Pass over {planned['count']:,} numbers, {planned['first']} to {planned['last']}, for good."
    if confirmed(what, yes=yes, dry_run=dry_run):
        planned = connection.call("POST", path, body, idempotency_key=key)
    write_one(planned, ("first", "last", "count"), form)
