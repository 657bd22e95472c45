"""Texts carried over from an old pepper to the first one, when a worker sees them (`metering.carrying`).

An offer is sealed under the new pepper: whoever can write to Redis, and knows no pepper, can make none.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from gateway.sealing import Peppers
from metering.carrying import Offer
from policies import keys

AGAIN_AFTER_S = 600.0  # an offer may be lost with Redis
_PURPOSE = b"tallygate carried digest\0"


def offer_of(text: str, old: str, peppers: Peppers) -> Offer:
    """Return the offer that a text's digest be known under the first pepper too."""
    pepper_id, pepper = peppers[0]
    new = keys.digest(text, pepper)
    return Offer(old, new, pepper_id, _seal(old, new, pepper))


def genuine(offers: Sequence[Offer], peppers: Peppers) -> list[Offer]:
    """Return the offers that were made under the first pepper by somebody who knows it."""
    pepper_id, pepper = peppers[0]
    return [
        each
        for each in offers
        if each.pepper_id == pepper_id and hmac.compare_digest(each.seal, _seal(each.old, each.new, pepper))
    ]


def _seal(old: str, new: str, pepper: bytes) -> str:
    return hmac.digest(pepper, _PURPOSE + f"{old}\0{new}".encode(), "sha256").hex()
