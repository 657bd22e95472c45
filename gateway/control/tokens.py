"""Tokens of the control API itself."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from gateway.control.auth import Right, Role, issue_token, token_digest
from gateway.control.models import Input, Instant, NoInput, NoQuery, Output, PageQuery, Text
from gateway.control.operations import Call, Operation, Reply
from gateway.control.problems import FieldError, invalid
from metering.ledger import tokens


class NewToken(Input):
    """A token to be made."""

    name: Text = Field(description="Who or what uses it; it stands in the audit log.")
    role: Role
    expires_at: Instant | None = None


class Token(Output):
    """A token."""

    id: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class TokenWithText(Token):
    """A token with its text, which is told this once."""

    token: str | None = Field(
        description="The token itself. It is not stored; a repeated request shows null."
    )


class TokenPage(Output):
    """Tokens, the oldest first."""

    items: list[Token]
    next_cursor: str | None


async def create(call: Call[NewToken, NoQuery]) -> Reply:
    """Make a token and tell its text."""
    if call.body.expires_at is not None and call.body.expires_at <= call.now:
        raise invalid([FieldError("body.expires_at", "is over; the token would open nothing")])
    text = issue_token()
    made = await tokens.create(
        call.connection,
        name=call.body.name,
        role=call.body.role,
        digest=token_digest(text, call.control.settings.security),
        pepper_id=call.control.settings.security.peppers[0][0],
        expires_at=call.body.expires_at,
        now=call.now,
        by=call.by,
    )
    return Reply(TokenWithText(token=text, **_shown(made).model_dump()), once=frozenset({"token"}))


async def listed(call: Call[NoInput, PageQuery]) -> Reply:
    """List tokens."""
    async with call.control.engine.connect() as connection:
        page = await tokens.listed(connection, cursor=call.query.cursor, limit=call.query.limit)
    return Reply(TokenPage(items=[_shown(each) for each in page.items], next_cursor=page.next_cursor))


async def revoke(call: Call[NoInput, NoQuery]) -> Reply:
    """End a token at once."""
    return Reply(
        _shown(await tokens.revoke(call.connection, call.path("token_id"), now=call.now, by=call.by))
    )


def _shown(token: tokens.Token) -> Token:
    return Token.model_validate(token, from_attributes=True)


OPERATIONS = (
    Operation(
        "createToken",
        "POST",
        "/v1/tokens",
        "Make a token; its text is told this once",
        create,
        rights=(Right.TOKENS,),
        body=NewToken,
        answer=TokenWithText,
        status=201,
        changes=True,
    ),
    Operation(
        "listTokens",
        "GET",
        "/v1/tokens",
        "List tokens, the oldest first",
        listed,
        rights=(Right.TOKENS,),
        query=PageQuery,
        answer=TokenPage,
    ),
    Operation(
        "revokeToken",
        "DELETE",
        "/v1/tokens/{token_id}",
        "End a token at once",
        revoke,
        rights=(Right.TOKENS,),
        answer=Token,
        changes=True,
    ),
)
