from __future__ import annotations

import re

from policies.decision import Reason
from policies.waiver import Waiver


def test_names_can_be_counter_fields() -> None:
    """Waivers and reasons are plain words that need no escaping in a counter's field, and no two are the
    same.
    """
    words = [*Waiver, *Reason]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in words)
    assert len(set(words)) == len(words)
