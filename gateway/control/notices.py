"""Notices that were sent, and the webhooks that hear of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from gateway import sealing
from gateway.control.auth import Right
from gateway.control.models import AccountId, Input, NoInput, NoQuery, Output, PageQuery
from gateway.control.operations import Call, Operation, Reply
from gateway.notices.post import new_secret
from metering.ledger import notices, webhooks
from metering.notices import Event

MAX_LABEL = 63  # characters between two points of a host's name; nobody can look up a longer one


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"must be a URL such as https://hooks.example.com/tallygate ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not text.isascii():
        raise ValueError("must begin with https:// or http:// and name a host, in ASCII")
    if not all(1 <= len(label) <= MAX_LABEL for label in parts.hostname.removesuffix(".").split(".")):
        raise ValueError("names a host that cannot be: an empty or too long part between its points")
    if parts.username or parts.password or parts.fragment or any(ord(each) <= 32 for each in text):
        raise ValueError("must have no user, fragment or spaces; receivers check the signature instead")
    return text


class NewWebhook(Input):
    """An address to be told of events."""

    url: Annotated[str, Field(max_length=2_000), AfterValidator(_url)]
    account_id: AccountId | None = Field(None, description="Only of this account; without one of all.")
    events: Annotated[list[Annotated[Event, Field(strict=False)]], Field(min_length=1)] | None = Field(
        None, description="Only these; without any all."
    )


class Webhook(Output):
    """An address that is told of events."""

    id: str
    url: str
    account_id: str | None
    events: list[str] | None
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


class WebhookWithSecret(Webhook):
    """A webhook with the secret that its signatures are checked with, told this once."""

    secret: str | None = Field(description="whsec_...; a repeated request shows null.")


class WebhookPage(Output):
    """Webhooks, the oldest first."""

    items: list[Webhook]
    next_cursor: str | None


class NoticesQuery(PageQuery):
    """Which notices."""

    account: AccountId | None = None
    event: Event | None = None


class Delivery(Output):
    """How far a notice came on one way; `target` is an e-mail address or the id of a webhook."""

    channel: str
    target: str
    state: str
    attempts: int
    next_at: datetime
    last_error: str | None
    delivered_at: datetime | None


class Notice(Output):
    """What was told; one event is told once."""

    id: str
    event: str
    event_key: str
    account_id: str | None
    data: dict[str, Any]
    created_at: datetime
    deliveries: list[Delivery]


class NoticePage(Output):
    """Notices, the oldest first."""

    items: list[Notice]
    next_cursor: str | None


async def listed(call: Call[NoInput, NoticesQuery]) -> Reply:
    """List notices."""
    query = call.query
    async with call.control.engine.connect() as connection:
        page = await notices.listed(
            connection,
            account_id=query.account,
            event=query.event,
            cursor=query.cursor,
            limit=query.limit,
        )
    return Reply(NoticePage(items=[_notice(each) for each in page.items], next_cursor=page.next_cursor))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one notice."""
    async with call.control.engine.connect() as connection:
        return Reply(_notice(await notices.get(connection, call.path("notice_id"))))


async def retry(call: Call[NoInput, NoQuery]) -> Reply:
    """Try again what failed of a notice."""
    return Reply(
        _notice(await notices.retry(call.connection, call.path("notice_id"), now=call.now, by=call.by))
    )


async def create_webhook(call: Call[NewWebhook, NoQuery]) -> Reply:
    """Make a webhook and tell its secret."""
    body, secret = call.body, new_secret()
    made = await webhooks.create(
        call.connection,
        url=body.url,
        secret=sealing.seal(secret, call.control.settings.security.peppers),
        account_id=body.account_id,
        events=[event.value for event in body.events] if body.events else None,
        now=call.now,
        by=call.by,
    )
    shown = _webhook(made).model_dump()
    return Reply(WebhookWithSecret(secret=secret, **shown), once=frozenset({"secret"}))


async def listed_webhooks(call: Call[NoInput, PageQuery]) -> Reply:
    """List webhooks."""
    async with call.control.engine.connect() as connection:
        page = await webhooks.listed(connection, cursor=call.query.cursor, limit=call.query.limit)
    return Reply(WebhookPage(items=[_webhook(each) for each in page.items], next_cursor=page.next_cursor))


async def disable_webhook(call: Call[NoInput, NoQuery]) -> Reply:
    """Send nothing to a webhook any more."""
    disabled = await webhooks.disable(
        call.connection, call.path("webhook_id"), reason="by hand", now=call.now, by=call.by
    )
    return Reply(_webhook(disabled))


def _notice(kept: notices.Kept) -> Notice:
    return Notice.model_validate(kept, from_attributes=True)


def _webhook(webhook: webhooks.Webhook) -> Webhook:
    return Webhook.model_validate(webhook, from_attributes=True)


OPERATIONS = (
    Operation(
        "listNotices",
        "GET",
        "/v1/notices",
        "List what was told to whom, the oldest first",
        listed,
        rights=(Right.BILLS_READ, Right.NOTICES_RETRY),
        query=NoticesQuery,
        answer=NoticePage,
        etag=True,
    ),
    Operation(
        "showNotice",
        "GET",
        "/v1/notices/{notice_id}",
        "Show a notice and how far it came",
        show,
        rights=(Right.BILLS_READ, Right.NOTICES_RETRY),
        answer=Notice,
        etag=True,
    ),
    Operation(
        "retryNotice",
        "POST",
        "/v1/notices/{notice_id}/retry",
        "Try again what failed of a notice",
        retry,
        rights=(Right.NOTICES_RETRY,),
        body=NoInput,
        answer=Notice,
        changes=True,
    ),
    Operation(
        "createWebhook",
        "POST",
        "/v1/webhooks",
        "Make a webhook; its secret is told this once",
        create_webhook,
        rights=(Right.WEBHOOKS,),
        body=NewWebhook,
        answer=WebhookWithSecret,
        status=201,
        changes=True,
    ),
    Operation(
        "listWebhooks",
        "GET",
        "/v1/webhooks",
        "List webhooks, the oldest first",
        listed_webhooks,
        rights=(Right.WEBHOOKS,),
        query=PageQuery,
        answer=WebhookPage,
    ),
    Operation(
        "disableWebhook",
        "DELETE",
        "/v1/webhooks/{webhook_id}",
        "Send nothing to a webhook any more",
        disable_webhook,
        rights=(Right.WEBHOOKS,),
        answer=Webhook,
        changes=True,
    ),
)
