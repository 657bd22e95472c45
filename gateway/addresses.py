"""E-mail addresses, as far as they can be judged without sending to them."""

from __future__ import annotations

import re

# One plain address: no names, groups or comments, and nothing that could end a header line.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+\Z")
MAX_CHARACTERS = 254


def email_address(text: str) -> str:
    """Return an address such as bills@shop.example; raises ValueError for what is none."""
    if len(text) > MAX_CHARACTERS or not _ADDRESS.match(text):
        raise ValueError("must be one e-mail address, such as bills@shop.example")
    return text
