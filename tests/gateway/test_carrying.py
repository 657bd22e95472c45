"""Offers of digests under a new pepper."""

from __future__ import annotations

import dataclasses

from gateway.carrying import genuine, offer_of
from policies import keys

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
PEPPERS = (NEW, OLD)


def test_an_offer_holds_both_digests_and_no_text() -> None:
    """The new digest is the text's under the first pepper."""
    offer = offer_of("text-of-a-key", "old digest", PEPPERS)
    assert (offer.new, offer.pepper_id) == (keys.digest("text-of-a-key", NEW[1]), "new")
    assert "text-of-a-key" not in repr(offer)
    assert genuine([offer], PEPPERS) == [offer]


def test_nobody_without_the_pepper_can_offer() -> None:
    """An offer for another key, of another digest, or under another pepper is not taken."""
    offer = offer_of("text-of-a-key", "old digest", PEPPERS)
    forged = [
        dataclasses.replace(offer, old="another key's digest"),
        dataclasses.replace(offer, new="digest of my own text"),
        dataclasses.replace(offer, seal=""),
        dataclasses.replace(offer, pepper_id="old"),
        offer_of("text-of-a-key", "old digest", (("new", b"x" * 32), OLD)),
    ]
    assert genuine(forged, PEPPERS) == []
