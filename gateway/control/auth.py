"""Who may use the control API: tokens, roles and the rights of each role.

A token is `tgc_` + 26 characters that carry 128 random bits + 7 characters of checksum, known by its
HMAC-SHA-256 under the same peppers as keys. It is looked up by that digest, so a comparison's time tells
nothing of a token's text.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.client_address import trusting
from gateway.control.problems import Problem
from gateway.failure_limit import FailureLimit
from gateway.settings import Security, Settings
from metering.ledger import tokens
from metering.ledger.audit import Author
from policies import keys

TOKEN_PREFIX = "tgc_"  # noqa: S105 - what every token begins with
FAILURES_ALLOWED = 30
FAILURES_WINDOW_S = 60.0
RIGHT_ONES_MAX = 10_000

log = structlog.get_logger("gateway.control")


class Role(StrEnum):
    """What a token is for."""

    ADMIN = "admin"
    BILLING = "billing"
    OPS = "ops"
    SUPPORT = "support"


class Right(StrEnum):
    """What an operation asks for."""

    ACCOUNTS_READ = "accounts.read"
    ACCOUNTS_WRITE = "accounts.write"
    KEYS_READ = "keys.read"
    KEYS_WRITE = "keys.write"  # make, import, rotate, revoke; limits and all other fields
    KEYS_BILL = "keys.bill"  # dates of purchase and of unpaid invoices; closing
    KEYS_HOLD = "keys.hold"  # suspend and resume
    USAGE_READ = "usage.read"
    TOKENS = "tokens"
    PEPPERS = "peppers"
    AUDIT_READ = "audit.read"
    JOBS_RUN = "jobs.run"
    METRICS_READ = "metrics.read"
    PRICES_READ = "prices.read"
    PRICES_WRITE = "prices.write"  # announce versions of prices, move subscriptions
    BILLS_READ = "bills.read"  # invoices, payments, disputes, credit notes, what was told
    BILLS_WRITE = "bills.write"  # close, issue, make void, note payments, resolve disputes
    DISPUTES_OPEN = "disputes.open"
    NOTICES_RETRY = "notices.retry"
    WEBHOOKS = "webhooks"


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.ADMIN: frozenset(Right),
    Role.BILLING: frozenset(
        {
            Right.ACCOUNTS_READ,
            Right.ACCOUNTS_WRITE,
            Right.KEYS_READ,
            Right.KEYS_BILL,
            Right.USAGE_READ,
            Right.AUDIT_READ,
            Right.PRICES_READ,
            Right.PRICES_WRITE,
            Right.BILLS_READ,
            Right.BILLS_WRITE,
            Right.DISPUTES_OPEN,
            Right.NOTICES_RETRY,
            Right.WEBHOOKS,
        }
    ),
    Role.OPS: frozenset(
        {
            Right.ACCOUNTS_READ,
            Right.KEYS_READ,
            Right.KEYS_HOLD,
            Right.USAGE_READ,
            Right.AUDIT_READ,
            Right.JOBS_RUN,
            Right.PEPPERS,
            Right.METRICS_READ,
            Right.PRICES_READ,
            Right.NOTICES_RETRY,
        }
    ),
    Role.SUPPORT: frozenset(
        {
            Right.ACCOUNTS_READ,
            Right.KEYS_READ,
            Right.KEYS_HOLD,
            Right.USAGE_READ,
            Right.PRICES_READ,
            Right.BILLS_READ,
            Right.DISPUTES_OPEN,
        }
    ),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token a request carries."""

    token_id: str
    name: str
    role: Role

    def may(self, right: Right) -> bool:
        """Say whether the role has a right."""
        return right in RIGHTS[self.role]


class Guesses:
    """Who may go on trying to name a token or a key; times are of a clock that only goes forward.

    A text that was right before is asked about even from an address that is held off, so that guessing from
    behind the same proxy locks nobody out.
    """

    def __init__(self) -> None:
        self.limit = FailureLimit(FAILURES_ALLOWED, FAILURES_WINDOW_S)
        self._right: OrderedDict[str, None] = OrderedDict()

    def check(self, address: str, digests: Sequence[str], now: float) -> None:
        """Raise a Problem when the address has failed too often, and none of the digests was right before."""
        wait_s = self.limit.wait_s(address, now)
        if wait_s and not any(digest in self._right for digest in digests):
            seconds = int(wait_s) + 1
            raise Problem(
                429,
                "too-many-failures",
                "Too many failed attempts",
                f"Wait {seconds} s before trying again, with the right token.",
                headers={"Retry-After": str(seconds)},
            )

    def was_right(self, digest: str) -> None:
        """Remember a text that opened something."""
        self._right[digest] = None
        self._right.move_to_end(digest)
        if len(self._right) > RIGHT_ONES_MAX:
            self._right.popitem(last=False)

    def was_wrong(self, address: str, digests: Sequence[str], now: float) -> None:
        """Count a failure."""
        for digest in digests:
            self._right.pop(digest, None)
        if self.limit.note(address, now):
            log.warning("an address is held off: it has named too many wrong tokens", client=address)


def issue_token() -> str:
    """Return a new token's text."""
    return TOKEN_PREFIX + keys.issue(secrets.token_bytes(keys.ENTROPY_BYTES)).removeprefix(keys.PREFIX)


def is_token(text: str) -> bool:
    """Say whether a text has a token's form and checksum."""
    return text.startswith(TOKEN_PREFIX) and keys.is_well_formed(
        keys.PREFIX + text.removeprefix(TOKEN_PREFIX)
    )


def token_digest(text: str, security: Security) -> str:
    """Return the digest under which a new token is kept."""
    return keys.digest(text, security.peppers[0][1])


def bearer(headers: CIMultiDictProxy[str]) -> str | None:
    """Return the text of `Authorization: Bearer`, or None without exactly one such header."""
    values = headers.getall(hdrs.AUTHORIZATION, [])
    if len(values) != 1:
        return None
    scheme, _, text = values[0].partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def address_of(request: web.Request, settings: Settings) -> str:
    """Return the address of who really asks, behind the operator's own proxies too."""
    peer = request.remote or ""
    trusted = trusting(settings.server.trusted_proxies)
    if peer not in trusted:
        return peer
    return trusted.client(peer, ",".join(request.headers.getall("X-Forwarded-For", [])))


async def authenticate(
    request: web.Request, engine: AsyncEngine, settings: Settings, guesses: Guesses, now: datetime
) -> Caller:
    """Return whose token a request carries; raises a Problem with status 401 or 429."""
    clock, address = time.monotonic(), address_of(request, settings)
    text = bearer(request.headers)
    digests = []
    if text is not None and is_token(text):
        digests = [keys.digest(text, pepper) for _, pepper in settings.security.peppers]
    guesses.check(address, digests, clock)
    if text is None:
        raise unauthorized(
            "Send a token as `Authorization: Bearer tgc_...`; `tallygate token create` makes one."
        )
    if digests:
        async with engine.connect() as connection:
            for digest in digests:
                token = await tokens.find(connection, digest)
                if token is not None and token.valid_at(now):
                    guesses.was_right(digest)
                    if digest != digests[0]:
                        await _carry(engine, token.id, digests[0], settings.security, now)
                    return Caller(token.id, token.name, Role(token.role))
                if token is not None:
                    guesses.was_wrong(address, digests, clock)
                    raise unauthorized("This token has expired or was revoked; ask an admin for a new one.")
    guesses.was_wrong(address, digests, clock)
    raise unauthorized("This is no valid token; check that it was copied whole.")


async def _carry(engine: AsyncEngine, token_id: str, digest: str, security: Security, now: datetime) -> None:
    """Let a token that was found under an old pepper be known by the first one from now on."""
    async with engine.begin() as connection:
        await tokens.carry(
            connection, token_id, digest, security.peppers[0][0], now=now, by=Author("change of peppers")
        )


def unauthorized(detail: str, what: str = "token") -> Problem:
    """Return the problem of a request without a valid token or key."""
    return Problem(
        401,
        "unauthorized",
        f"A {what} is needed",
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="tallygate"'},
    )


def require(caller: Caller, right: Right) -> None:
    """Raise a Problem unless the caller has the right."""
    if not caller.may(right):
        able = ", ".join(role for role in Role if right in RIGHTS[role])
        raise Problem(
            403,
            "forbidden",
            "Not allowed for this role",
            f"The token's role is {caller.role}; this needs {right}, which have: {able}.",
        )
