"""Why a call that was counted is not charged (contract OT-15)."""

from __future__ import annotations

from enum import StrEnum


class Waiver(StrEnum):
    """The reason beside every waived unit; all but `free_method` give the call's quota back."""

    FREE_METHOD = "free_method"  # the method is not marked as paid
    UPSTREAM_UNREACHABLE = "upstream_unreachable"  # no connection, or it broke before an answer began
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_BROKEN = "upstream_broken"  # the answer broke off, or was no HTTP
    ERROR_CODE = "error_code"  # the answer says neither Ok nor BatchError
    HTTP_STATUS = "http_status"  # the answer's HTTP status says that it failed
    NOT_FORWARDED = "not_forwarded"  # the client left, or was refused otherwise, before anything was sent
