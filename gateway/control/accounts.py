"""Accounts: the customers whose keys are counted and billed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.addresses import email_address
from gateway.control.auth import Right
from gateway.control.key_models import Closing
from gateway.control.models import Input, Instant, NoInput, NoQuery, Output, PageQuery, Text
from gateway.control.operations import Call, Operation, Reply
from gateway.control.problems import FieldError, invalid
from metering.ledger import accounts

BILLING_EMAIL = "Where invoices and notices are sent; without one only webhooks hear of them."
FIRST_REQUEST = "When the customer first asked; opens the days in which a bought key brings a free month."

CLOCKS_DIFFER = timedelta(minutes=1)

Email = Annotated[str, AfterValidator(email_address)]


class NewAccount(Input):
    """An account to be made."""

    name: Text
    main_domain: Text | None = Field(None, description="The site for which support is given.")
    billing_email: Email | None = Field(None, description=BILLING_EMAIL)
    first_request_at: Instant | None = Field(None, description=FIRST_REQUEST)


class AccountChange(Input):
    """Fields of an account to be set; those that are absent stay."""

    name: Text = Field("", description="Cannot be emptied.")
    main_domain: Text | None = None
    billing_email: Email | None = Field(None, description=BILLING_EMAIL)
    first_request_at: Instant | None = Field(None, description=FIRST_REQUEST)


class Account(Output):
    """An account."""

    id: str
    name: str
    main_domain: str | None
    billing_email: str | None
    currency: str
    first_request_at: Instant | None
    created_at: Instant
    closed_at: Instant | None


class ChangedAccount(Account):
    """An account after a change; `in_force` is False while its keys have yet to reach the gateways."""

    in_force: bool = False


class AccountPage(Output):
    """Accounts, the oldest first."""

    items: list[Account]
    next_cursor: str | None


async def create(call: Call[NewAccount, NoQuery]) -> Reply:
    """Make an account."""
    _refuse_ahead(call, call.body.first_request_at)
    made = await accounts.create(
        call.connection,
        name=call.body.name,
        main_domain=call.body.main_domain,
        billing_email=call.body.billing_email,
        first_request_at=call.body.first_request_at,
        currency=call.control.settings.billing.currency,
        now=call.now,
        by=call.by,
    )
    return Reply(_shown(made))


async def listed(call: Call[NoInput, PageQuery]) -> Reply:
    """List accounts."""
    async with call.control.engine.connect() as connection:
        page = await accounts.listed(connection, cursor=call.query.cursor, limit=call.query.limit)
    return Reply(AccountPage(items=[_shown(each) for each in page.items], next_cursor=page.next_cursor))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one account."""
    async with call.control.engine.connect() as connection:
        return Reply(_shown(await accounts.get(connection, call.path("account_id"))))


async def change(call: Call[AccountChange, NoQuery]) -> Reply:
    """Set fields of an account."""
    wanted = call.body.model_dump(exclude_unset=True)
    _refuse_ahead(call, call.body.first_request_at)
    changed = await accounts.change(
        call.connection, call.path("account_id"), wanted, now=call.now, by=call.by
    )
    return Reply(ChangedAccount(**_shown(changed).model_dump()))


async def close(call: Call[Closing, NoQuery]) -> Reply:
    """End an account's service with that of all its keys, now or at a later instant (contract OT-14)."""
    account_id = call.path("account_id")
    at = call.body.at or call.now
    if at < call.now - timedelta(seconds=1):
        raise invalid([FieldError("body.at", "lies in the past; calls made since then are counted already")])
    account = await accounts.get(call.connection, account_id)
    if account.closed_at is None or account.closed_at > call.now:
        account = await accounts.close(call.connection, account_id, at=at, now=call.now, by=call.by)
    return Reply(ChangedAccount(**_shown(account).model_dump()))


def _refuse_ahead(call: Call[Any, Any], first_request_at: datetime | None) -> None:
    """Nobody has asked yet at an instant that lies ahead: a slip would open days of the free month then."""
    if first_request_at is not None and first_request_at > call.now + CLOCKS_DIFFER:
        raise invalid([FieldError("body.first_request_at", f"lies ahead; it is {call.now:%Y-%m-%dT%H:%MZ}")])


def _shown(account: accounts.Account) -> Account:
    return Account.model_validate(account, from_attributes=True)


OPERATIONS = (
    Operation(
        "createAccount",
        "POST",
        "/v1/accounts",
        "Make an account",
        create,
        rights=(Right.ACCOUNTS_WRITE,),
        body=NewAccount,
        answer=Account,
        status=201,
        changes=True,
    ),
    Operation(
        "listAccounts",
        "GET",
        "/v1/accounts",
        "List accounts, the oldest first",
        listed,
        rights=(Right.ACCOUNTS_READ,),
        query=PageQuery,
        answer=AccountPage,
    ),
    Operation(
        "showAccount",
        "GET",
        "/v1/accounts/{account_id}",
        "Show an account",
        show,
        rights=(Right.ACCOUNTS_READ,),
        answer=Account,
    ),
    Operation(
        "changeAccount",
        "PATCH",
        "/v1/accounts/{account_id}",
        "Set fields of an account",
        change,
        rights=(Right.ACCOUNTS_WRITE,),
        body=AccountChange,
        answer=ChangedAccount,
        changes=True,
        projects=True,
    ),
    Operation(
        "closeAccount",
        "POST",
        "/v1/accounts/{account_id}/close",
        "End an account's service with that of all its keys, now or later",
        close,
        rights=(Right.KEYS_BILL,),
        body=Closing,
        answer=ChangedAccount,
        changes=True,
        projects=True,
    ),
)
