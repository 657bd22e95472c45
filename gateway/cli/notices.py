"""`tallygate notice` and `tallygate webhook`: what was told to whom, and who hears of events."""

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
    note,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="What was told to whom.")
webhooks = typer.Typer(no_args_is_help=True, help="Addresses that hear of events.")

NOTICE_COLUMNS = ("id", "created_at", "event", "account_id", "data", "ways")
WEBHOOK_COLUMNS = ("id", "url", "account_id", "events", "created_at", "disabled_at", "disabled_reason")


@app.command("list")
def list_(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    event: Annotated[str | None, typer.Option(help="Only this event, such as invoice.issued.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List notices and how far each came, the oldest first."""
    rows = []
    for each in client.of(context).pages("/v1/notices", values.given(account=account, event=event), limit):
        ways = [f"{way['channel']} {way['state']}" for way in each["deliveries"]]
        rows.append(each | {"ways": ways})
    write_rows(rows, NOTICE_COLUMNS, form)


@app.command()
def retry(
    context: typer.Context,
    notice: Annotated[str, typer.Argument(metavar="NOTICE", help="The notice's id, ntc_...")],
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Try again what failed of a notice."""
    connection, path = client.of(context), f"/v1/notices/{client.segment(notice)}"
    ways = connection.call("GET", path)["deliveries"]
    failed = [
        f"{way['channel']} to {way['target']} ({way['last_error']})"
        for way in ways
        if way["state"] == "failed"
    ]
    what = f"Try again: {', '.join(failed)}." if failed else "Nothing of this notice failed."
    confirmed(what, yes=True, dry_run=dry_run)
    done = connection.call("POST", f"{path}/retry", {}, dry_run=dry_run)
    write_one(done, ("id", "event", "deliveries"), form)


@webhooks.command()
def create(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where events are sent.")],
    account: Annotated[str | None, typer.Option(help="Only of this account. Default: of all.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Only this event; may repeat.")] = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make a webhook; the secret of its signatures is told this once."""
    body = values.given(url=url, account_id=account, events=event)
    key = client.new_idempotency_key()
    events, whose = ", ".join(event) if event else "every event", account or "every account"
    if dry_run:
        confirmed(f"Send {events} of {whose} to {url}.", yes=True, dry_run=True)
    made = client.of(context).call("POST", "/v1/webhooks", body, idempotency_key=key, dry_run=dry_run)
    write_one(made, (*WEBHOOK_COLUMNS[:5], "secret"), form)
    if not dry_run:
        note("Keep the secret: it is not shown again.")


@webhooks.command("list")
def list_webhooks(context: typer.Context, form: FormatOption = Format.TABLE) -> None:
    """List webhooks, the oldest first."""
    write_rows(client.of(context).pages("/v1/webhooks", {}), WEBHOOK_COLUMNS, form)


@webhooks.command()
def disable(
    context: typer.Context,
    webhook: Annotated[str, typer.Argument(metavar="WEBHOOK", help="The webhook's id, whk_...")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Send nothing to a webhook any more."""
    connection, path = client.of(context), f"/v1/webhooks/{client.segment(webhook)}"
    url = connection.rehearsed("DELETE", path)["url"]
    confirmed(f"Disable {webhook} ({url}), for good.", yes=yes, dry_run=dry_run)
    done = connection.call("DELETE", path, dry_run=dry_run)
    write_one(done, WEBHOOK_COLUMNS, form)
