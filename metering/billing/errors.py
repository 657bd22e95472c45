"""The one error of billing that a caller can act on."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "already_disputed",
    "changed",
    "currency",
    "not_closed",
    "not_issued",
    "not_over",
    "other_account",
    "resolved",
    "too_late",
    "too_much",
    "wrong_amount",
    "wrong_date",
    "wrong_move",
    "wrong_number",
]


class BillingError(ValueError):
    """The contract or the books do not allow it; the text says why, and what would be accepted."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code: Code = code
