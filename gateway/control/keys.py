"""Keys: made, taken over, changed, rotated, held and ended; their text is told once and never stored."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import sealing
from gateway.control.auth import Right, require
from gateway.control.key_models import (
    Closing,
    ImportedKey,
    ImportedKeys,
    Key,
    KeyChange,
    KeyFields,
    KeyImport,
    KeyPage,
    KeysQuery,
    KeyWithText,
    KeyWithUsage,
    NewKey,
    Rotation,
    Suspension,
    key_fields,
)
from gateway.control.me import units_in_use
from gateway.control.models import Input, NoInput, NoQuery, Output
from gateway.control.operations import Call, Handler, Operation, Reply
from gateway.control.problems import FieldError, conflict, invalid
from gateway.settings import Settings
from gateway.validation import suggestion
from metering.billing import gaps
from metering.ledger import CredentialTakenError, key_changes, peppers, subscriptions
from metering.ledger import keys as ledger
from metering.ledger.credentials import NewCredential
from metering.ledger.rows import NotFoundError
from metering.ledger.subscriptions import Subscription
from policies import keys as texts
from policies.period import day_of

# What a billing token may set; everything else takes the right to write keys.
BILLING_FIELDS = frozenset({"oldest_unpaid_issued_on", "purchased_at"})

_AHEAD = "lies ahead: a key can be used at once, so it is bought today ({today}) at the latest"


async def create(call: Call[NewKey, NoQuery]) -> Reply:
    """Make a key and tell its text."""
    body, settings = call.body, call.control.settings
    _refuse_misfits([("body", body)], call)
    if body.expires_at is not None and body.expires_at <= call.now:
        raise invalid([FieldError("body.expires_at", "is over; the key would open nothing")])
    text = texts.issue(secrets.token_bytes(texts.ENTROPY_BYTES))
    bought_now = (
        "purchased_at" not in body.model_fields_set and not settings.contract.plans[body.plan].sandbox
    )
    new = _new_key(body, text, settings, purchased_at=call.now if bought_now else body.purchased_at)
    made = await ledger.create(call.connection, new, now=call.now, by=call.by)
    return Reply(KeyWithText(key=text, **_fields(call, made)), once=frozenset({"key"}))


async def take_over(call: Call[KeyImport, NoQuery]) -> Reply:
    """Take over keys that were issued elsewhere, all or none."""
    entries, settings = call.body.keys, call.control.settings
    places = [(f"body.keys[{number}]", entry) for number, entry in enumerate(entries, 1)]
    _refuse_misfits(places, call)
    new = [_new_key(entry, entry.credential, settings, purchased_at=entry.purchased_at) for entry in entries]
    try:
        ids = await ledger.create_many(call.connection, new, now=call.now, by=call.by)
    except CredentialTakenError as error:
        raise conflict(
            "Nothing was imported: some keys are in use already.",
            [FieldError(f"{places[index][0]}.credential", "is in use already") for index in error.indexes],
        ) from error
    return Reply(ImportedKeys(imported=len(ids), ids=ids))


async def listed(call: Call[NoInput, KeysQuery]) -> Reply:
    """List keys."""
    query = call.query
    async with call.control.engine.connect() as connection:
        if query.pepper is not None:
            await _refuse_unknown_pepper(call, connection, query.pepper)
        page = await ledger.listed(
            connection,
            account_id=query.account,
            having=None if query.pepper is None else peppers.waiting(query.pepper, call.now),
            cursor=query.cursor,
            limit=query.limit,
        )
    return Reply(
        KeyPage(items=[Key(**_fields(call, each)) for each in page.items], next_cursor=page.next_cursor)
    )


async def _refuse_unknown_pepper(call: Call[Any, Any], connection: AsyncConnection, pepper_id: str) -> None:
    """An empty list of its keys would say that nobody needs it any more."""
    configured = [name for name, _ in call.control.settings.security.peppers]
    if pepper_id in configured:
        return
    if pepper_id not in [need.pepper_id for need in await peppers.needs(connection, call.now)]:
        raise invalid([FieldError("query.pepper", f"is no pepper; there are {', '.join(configured)}")])


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one key with what it used today."""
    async with call.control.engine.connect() as connection:
        key = await ledger.get(connection, call.path("key_id"))
    fields = _fields(call, key)
    return Reply(KeyWithUsage(used_now=await units_in_use(call, key.id, fields["window_now"]), **fields))


async def change(call: Call[KeyChange, NoQuery]) -> Reply:
    """Set fields of a key."""
    key_id, settings = call.path("key_id"), call.control.settings
    wanted = call.body.model_dump(exclude_unset=True)
    if call.caller is not None and wanted.keys() - BILLING_FIELDS:
        require(call.caller, Right.KEYS_WRITE)
    if wanted.get("unlimited") and wanted.get("daily_limit") is not None:
        raise invalid([FieldError("body.daily_limit", "has no effect beside unlimited; give one of them")])
    if wanted.get("purchased_at") is not None:
        await key_changes.lock_account(call.connection, key_id)  # before the key, as everybody does
        key = await ledger.get(call.connection, key_id)
        plan = settings.contract.plans.get(key.plan)
        if plan is not None and plan.sandbox:
            raise invalid(
                [FieldError("body.purchased_at", f"a key of the sandbox plan {key.plan} cannot be bought")]
            )
        await _refuse_late_purchase(call, key_id, wanted["purchased_at"])
    unpaid = wanted.get("oldest_unpaid_issued_on")
    today = day_of(call.now.timestamp(), settings.contract.zone)
    if unpaid is not None and unpaid > today:
        # A slip of the year would hold the ladder off for as long.
        raise invalid([FieldError("body.oldest_unpaid_issued_on", f"lies ahead; today is {today}")])
    ends = wanted.get("expires_at")
    is_over = ends is not None and ends < call.now - timedelta(seconds=1)
    if is_over and (await ledger.get(call.connection, key_id)).expires_at != ends:
        # As with closing: days that were served would no longer be billed (contract OT-14).
        raise invalid(
            [FieldError("body.expires_at", "lies in the past; calls made since then are counted already")]
        )
    if wanted.get("signing_secret") is not None:
        wanted["signing_secret"] = sealing.seal(wanted["signing_secret"], settings.security.peppers)
    served = await _subscription(call, key_id) if "expires_at" in wanted else None
    changed = await key_changes.change(call.connection, key_id, wanted, now=call.now, by=call.by)
    if served is not None:
        await gaps.note(call.connection, served, contract=settings.contract, now=call.now, by=call.by)
    return Reply(Key(**_fields(call, changed)))


async def rotate(call: Call[Rotation, NoQuery]) -> Reply:
    """Give a key a new text; the old one is accepted for a while longer."""
    key_id = call.path("key_id")
    await _refuse_ended(call, key_id)
    text = texts.issue(secrets.token_bytes(texts.ENTROPY_BYTES))
    rotated = await key_changes.rotate(
        call.connection,
        key_id,
        _credential(text, call.control.settings),
        overlap_s=call.body.overlap_s,
        now=call.now,
        by=call.by,
    )
    return Reply(KeyWithText(key=text, **_fields(call, rotated)), once=frozenset({"key"}))


async def revoke(call: Call[NoInput, NoQuery]) -> Reply:
    """End a key at once and for good."""
    revoked = await key_changes.revoke(call.connection, call.path("key_id"), now=call.now, by=call.by)
    return Reply(Key(**_fields(call, revoked)))


async def suspend(call: Call[Suspension, NoQuery]) -> Reply:
    """Hold a key until it is resumed."""
    key_id = call.path("key_id")
    await _refuse_ended(call, key_id)
    held = await key_changes.suspend(
        call.connection, key_id, reason=call.body.reason, now=call.now, by=call.by
    )
    return Reply(Key(**_fields(call, held)))


async def resume(call: Call[NoInput, NoQuery]) -> Reply:
    """Let go of a key that was held."""
    await _refuse_ended(call, call.path("key_id"))
    resumed = await key_changes.resume(call.connection, call.path("key_id"), now=call.now, by=call.by)
    return Reply(Key(**_fields(call, resumed)))


async def close(call: Call[Closing, NoQuery]) -> Reply:
    """End a key's service, now or at a later instant (contract OT-14)."""
    key_id = call.path("key_id")
    at = call.body.at or call.now
    if at < call.now - timedelta(seconds=1):
        raise invalid([FieldError("body.at", "lies in the past; calls made since then are counted already")])
    key = await ledger.get(call.connection, key_id)
    if key.closed_at is not None and key.closed_at <= call.now:
        return Reply(Key(**_fields(call, key)))
    closed = await key_changes.close(call.connection, key_id, at=at, now=call.now, by=call.by)
    return Reply(Key(**_fields(call, closed)))


async def _subscription(call: Call[Any, Any], key_id: str) -> Subscription | None:
    """Return what is paid for a key; nothing is for one of a sandbox."""
    await key_changes.lock(call.connection, key_id)
    try:
        return await subscriptions.get(call.connection, key_id, contract=call.control.settings.contract)
    except NotFoundError:
        return None


async def _refuse_late_purchase(call: Call[Any, Any], key_id: str, purchased_at: datetime) -> None:
    """Calls of days before a key's service begins would be on no invoice."""
    zone = call.control.settings.contract.zone
    bought_on, today = day_of(purchased_at.timestamp(), zone), day_of(call.now.timestamp(), zone)
    used_on = await subscriptions.first_used_on(call.connection, key_id)
    if bought_on > today:
        raise invalid([FieldError("body.purchased_at", _AHEAD.format(today=today))])
    if used_on is not None and bought_on > used_on:
        why = f"comes after the first calls, which were counted on {used_on}: that day is the latest"
        raise invalid([FieldError("body.purchased_at", why)])


def _refuse_misfits(entries: Sequence[tuple[str, KeyFields]], call: Call[Any, Any]) -> None:
    """Name every field that fits no plan or that contradicts another."""
    contract = call.control.settings.contract
    plans, today = contract.plans, day_of(call.now.timestamp(), contract.zone)
    errors = []
    for place, entry in entries:
        plan = plans.get(entry.plan)
        if plan is None:
            known = ", ".join(plans)
            errors.append(
                FieldError(
                    f"{place}.plan",
                    f"there is no plan {entry.plan!r}{suggestion(entry.plan, plans)} (plans: {known})",
                )
            )
        elif plan.sandbox and entry.purchased_at is not None:
            errors.append(
                FieldError(f"{place}.purchased_at", f"a key of the sandbox plan {plan.name} cannot be bought")
            )
        elif entry.purchased_at is not None and day_of(entry.purchased_at.timestamp(), contract.zone) > today:
            errors.append(FieldError(f"{place}.purchased_at", _AHEAD.format(today=today)))
        if entry.unlimited and entry.daily_limit is not None:
            errors.append(
                FieldError(f"{place}.daily_limit", "has no effect beside unlimited; give one of them")
            )
        if isinstance(entry, ImportedKey) and not texts.is_well_formed(entry.credential):
            errors.append(
                FieldError(f"{place}.credential", "is no key: visible ASCII, and no mistyped tg_ key")
            )
    if errors:
        raise invalid(errors)


def _new_key(entry: KeyFields, text: str, settings: Settings, **given: Any) -> ledger.NewKey:
    values = entry.model_dump(exclude={"credential"}) | given
    if entry.signing_secret is not None:
        values["signing_secret"] = sealing.seal(entry.signing_secret, settings.security.peppers)
    return ledger.NewKey(credential=_credential(text, settings), **values)


def _credential(text: str, settings: Settings) -> NewCredential:
    (pepper_id, pepper), *others = settings.security.peppers
    known_as = tuple(texts.digest(text, other) for _, other in others)
    return NewCredential(texts.digest(text, pepper), pepper_id, texts.hint(text), known_as)


async def _refuse_ended(call: Call[Any, Any], key_id: str) -> None:
    """What has ended cannot be held, let go of or given a new text."""
    key = await ledger.get(call.connection, key_id)
    if key.revoked_at is not None and key.revoked_at <= call.now:
        raise conflict("The key was revoked, and that is for good; make a new one.")
    if key.closed_at is not None and key.closed_at <= call.now:
        raise conflict("The key's service has ended; make a new one.")


def _fields(call: Call[Any, Any], key: ledger.Key) -> dict[str, Any]:
    return key_fields(key, call.control.settings.contract, call.now)


def _change_of(
    action: str, summary: str, handle: Handler, right: Right, body: type[Input], answer: type[Output] = Key
) -> Operation:
    """Declare a POST under a key, such as `/v1/keys/{key_id}/rotate`."""
    return Operation(
        f"{action}Key",
        "POST",
        f"/v1/keys/{{key_id}}/{action}",
        summary,
        handle,
        rights=(right,),
        body=body,
        answer=answer,
        changes=True,
        projects=True,
    )


OPERATIONS = (
    Operation(
        "createKey",
        "POST",
        "/v1/keys",
        "Make a key; its text is told this once",
        create,
        rights=(Right.KEYS_WRITE,),
        body=NewKey,
        answer=KeyWithText,
        status=201,
        changes=True,
        projects=True,
    ),
    Operation(
        "importKeys",
        "POST",
        "/v1/keys/import",
        "Take over keys that were issued elsewhere, all or none",
        take_over,
        rights=(Right.KEYS_WRITE,),
        body=KeyImport,
        answer=ImportedKeys,
        status=201,
        changes=True,
        projects=True,
    ),
    Operation(
        "listKeys",
        "GET",
        "/v1/keys",
        "List keys, the oldest first",
        listed,
        rights=(Right.KEYS_READ,),
        query=KeysQuery,
        answer=KeyPage,
    ),
    Operation(
        "showKey",
        "GET",
        "/v1/keys/{key_id}",
        "Show a key, its standing, its limit and what it used today",
        show,
        rights=(Right.KEYS_READ,),
        answer=KeyWithUsage,
    ),
    Operation(
        "changeKey",
        "PATCH",
        "/v1/keys/{key_id}",
        "Set fields of a key; in force from its next call on",
        change,
        rights=(Right.KEYS_WRITE, Right.KEYS_BILL),
        body=KeyChange,
        answer=Key,
        changes=True,
        projects=True,
    ),
    _change_of(
        "rotate", "Give a key a new text, told this once", rotate, Right.KEYS_WRITE, Rotation, KeyWithText
    ),
    _change_of("revoke", "End a key at once and for good", revoke, Right.KEYS_WRITE, NoInput),
    _change_of("suspend", "Hold a key until it is resumed", suspend, Right.KEYS_HOLD, Suspension),
    _change_of("resume", "Let go of a key that was held", resume, Right.KEYS_HOLD, NoInput),
    _change_of("close", "End a key's service, now or later", close, Right.KEYS_BILL, Closing),
)
