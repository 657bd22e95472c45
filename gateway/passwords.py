"""Passwords that stand in URLs, blotted out of any text.

The one secret that a configuration may hold in plain text is a password of a store, in its URL, and libraries
repeat URLs in what they say.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"

# Up to the last @, since drivers take a password with / and @ in it too, or among the parameters.
_PASSWORDS = (
    (re.compile(r"(://[^/\s:@\"']*:)\S+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)([?&][a-z_]*password=)[^&\s\"']+"), rf"\1{HIDDEN}"),
)


def without_passwords(text: str) -> str:
    """Return a text, such as a configuration's, with the passwords in URLs blotted out."""
    for pattern, replacement in _PASSWORDS:
        text = pattern.sub(replacement, text)
    return text
