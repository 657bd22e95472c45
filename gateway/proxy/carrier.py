"""Offers of digests under a new pepper, on their way out of a worker (`gateway.carrying`)."""

from __future__ import annotations

import asyncio

import structlog
from redis.exceptions import RedisError

from gateway.carrying import AGAIN_AFTER_S, offer_of
from gateway.proxy.entry import Entry
from gateway.sealing import Peppers
from metering import carrying
from metering.carrying import Offer
from metering.clients import Client

WAITING_MAX = 1_000

log = structlog.get_logger("gateway.proxy")


class Carrier:
    """Collects offers and sends them together; one that cannot be sent is made again at a later call."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._waiting: list[Offer] = []
        self._sending: asyncio.Task[None] | None = None

    def note(self, entry: Entry, text: str, peppers: Peppers, now: float) -> None:
        """Offer the text of a key that was found under an old pepper, unless that was done lately."""
        if now >= entry.offer_again_at and entry.ended is None and len(self._waiting) < WAITING_MAX:
            entry.offer_again_at = now + AGAIN_AFTER_S
            self._waiting.append(offer_of(text, entry.digest, peppers))

    def flush(self) -> None:
        """Send what has been collected, one batch at a time."""
        if self._waiting and (self._sending is None or self._sending.done()):
            offers, self._waiting = self._waiting, []
            self._sending = asyncio.get_running_loop().create_task(self._send(offers))

    async def _send(self, offers: list[Offer]) -> None:
        try:
            await carrying.offer(self._redis, offers)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("digests under the new pepper could not be offered", error=type(error).__name__)
