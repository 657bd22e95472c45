"""A notice as a webhook, signed as Standard Webhooks says."""

from __future__ import annotations

import base64
import json
import secrets
from datetime import datetime

import aiohttp
from standardwebhooks import Webhook as Signer

from metering.ledger.notices import Kept

SECRET_BYTES = 32
SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
GONE = 410


class StatusError(Exception):
    """The receiver answered with something else than success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def new_secret() -> str:
    """Return a new secret for signatures."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def body_of(notice: Kept) -> str:
    """Return the body: the same bytes at every attempt."""
    return json.dumps(
        {
            "type": notice.event,
            "timestamp": notice.created_at.isoformat(),
            "data": {"account_id": notice.account_id, **notice.data},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


async def post(
    session: aiohttp.ClientSession, notice: Kept, *, url: str, secret: str, now: datetime, timeout_s: float
) -> None:
    """Send it once; raises StatusError, aiohttp.ClientError or TimeoutError. Redirects are not followed."""
    body = body_of(notice)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tallygate",
        "Webhook-Id": notice.id,
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": Signer(secret).sign(notice.id, now, body),
    }
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with session.post(
        url, data=body.encode(), headers=headers, timeout=timeout, allow_redirects=False
    ) as response:
        if not 200 <= response.status < 300:
            raise StatusError(response.status)
