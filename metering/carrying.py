"""Digests on their way from an old pepper to a new one, kept in Redis between a worker and the ledger.

Only HMACs of texts are stored, so a digest under a new pepper can be made by nobody but a worker to which
the text was just sent. It offers the pair; the control process writes it into the ledger. An offer that is
lost is made again at a later call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from metering.clients import Client

NAME = "tg:carried"  # a hash: old digest -> what else an offer holds
OFFERS_MAX = 100_000
BATCH = 500


@dataclass(frozen=True, slots=True)
class Offer:
    """The same text under two peppers; `seal` proves that whoever offers it knows the new pepper."""

    old: str
    new: str
    pepper_id: str
    seal: str


async def offer(redis: Client, offers: Sequence[Offer]) -> None:
    """Leave offers for the control process; more than fit are dropped, and made again later."""
    if offers and await redis.hlen(NAME) < OFFERS_MAX:
        await redis.hset(NAME, mapping={each.old: json.dumps(asdict(each)) for each in offers})


async def offered(redis: Client) -> list[Offer]:
    """Return some of the offers; what is no offer is dropped."""
    offers: list[Offer] = []
    async for field, text in redis.hscan_iter(NAME, count=BATCH):
        try:
            offers.append(Offer(**json.loads(text)))
        except (ValueError, TypeError):
            await redis.hdel(NAME, field)
        if len(offers) >= BATCH:
            break
    return offers


async def drop(redis: Client, offers: Sequence[Offer]) -> None:
    """Forget offers that were dealt with."""
    if offers:
        await redis.hdel(NAME, *(each.old for each in offers))
