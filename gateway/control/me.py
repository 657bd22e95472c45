"""A client site about itself, with its own key: what it used, and what it may still use today."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import hdrs
from redis.exceptions import RedisError

from gateway.control.auth import TOKEN_PREFIX, address_of, bearer, unauthorized
from gateway.control.operations import Call
from gateway.control.problems import Problem
from gateway.dialects.sentences import SENTENCES
from metering.ledger import keys as ledger
from metering.live import in_use
from metering.snapshot import day_text
from policies import keys as texts
from policies.allow_lists import AllowLists
from policies.decision import conditions, credential_refusal, place_refusal
from policies.period import day_of
from policies.quota import Window, bucket_of
from policies.standing import Standing

KEY_HEADER = "X-Api-Key"


async def own_key(call: Call[Any, Any]) -> ledger.Key:
    """Return the key that a request carries; raises a Problem with status 401 or 429.

    A key that is restricted, banned or suspended may still see what it used; one that ended may not.
    """
    request, control = call.request, call.control
    address, clock = address_of(request, control.settings), time.monotonic()
    values = request.headers.getall(KEY_HEADER, [])
    text = values[0] if len(values) == 1 else bearer(request.headers) if not values else None
    digests = []
    if text is not None and texts.is_well_formed(text):
        digests = [texts.digest(text, pepper) for _, pepper in control.settings.security.peppers]
    control.guesses.check(address, digests, clock)
    if text is None:
        raise unauthorized(
            f"Send the key in one header: `{KEY_HEADER}: ...` or `Authorization: Bearer ...`.", "key"
        )
    if digests:
        async with control.engine.connect() as connection:
            for digest in digests:
                key = await ledger.find(connection, digest)
                if key is not None and _opens(call, key, digest):
                    control.guesses.was_right(digest)
                    _refuse_misplaced(call, key, address)
                    return key
    # A token that was sent here by mistake still opens what it opens, from an address that is held off too.
    is_mistake = text.startswith(TOKEN_PREFIX)
    control.guesses.was_wrong(address, () if is_mistake else digests, clock)
    raise unauthorized("This is no key that is in use; check that it was copied whole.", "key")


async def quota_of(call: Call[Any, Any], key: ledger.Key) -> dict[str, Any]:
    """Return a key's standing and quota at present; `used` and `left` are None while Redis is away."""
    contract = call.control.settings.contract
    now = call.now.timestamp()
    held = conditions(ledger.record_of(key), contract, now)
    used = await units_in_use(call, key.id, held.window)
    left = None if used is None or held.limit is None else max(0, held.limit - used)
    return {"standing": held.standing, "limit": held.limit, "window": held.window, "used": used, "left": left}


async def units_in_use(call: Call[Any, Any], key_id: str, window: Window) -> int | None:
    """Return the units in use in a key's window, or None while Redis is away."""
    now = call.now.timestamp()
    day = day_text(day_of(now, call.control.settings.contract.zone))
    try:
        return await in_use(call.control.redis, key_id, day=day, window=window, bucket=bucket_of(now))
    except (RedisError, OSError, TimeoutError):
        return None


def _refuse_misplaced(call: Call[Any, Any], key: ledger.Key, address: str) -> None:
    """A key's lists of networks and sites hold for what it opens here too."""
    lists = AllowLists(key.allow_networks, key.allow_domains)
    headers = call.request.headers
    origin, referer = headers.get(hdrs.ORIGIN), headers.get(hdrs.REFERER)
    reason = place_refusal(lists, address, origin, referer)
    if reason is not None:
        raise Problem(403, reason.replace("_", "-"), "Not allowed from here", SENTENCES[reason])


def _opens(call: Call[Any, Any], key: ledger.Key, digest: str) -> bool:
    now = call.now.timestamp()
    record = ledger.record_of(key)
    if credential_refusal(record, digest, now) is not None:
        return False
    return conditions(record, call.control.settings.contract, now).standing is not Standing.CLOSED
