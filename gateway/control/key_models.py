"""What the control API takes and gives for keys."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.control.models import AccountId, Day, Input, Instant, Output, PageQuery, Text
from metering.ledger import keys as ledger
from policies.allow_lists import LIST_MAX, domain_of, network_of
from policies.decision import Contract, conditions
from policies.keys import IMPORTED_MAX, IMPORTED_MIN
from policies.quota import Window
from policies.standing import Standing

MAX_IMPORT = 10_000
MAX_OVERLAP_S = 90 * 86_400.0
DEFAULT_OVERLAP_S = 86_400.0


Limit = Annotated[int, Field(ge=0, le=2**53 - 1)]
Networks = Annotated[
    tuple[Annotated[str, Field(max_length=50), AfterValidator(network_of)], ...], Field(max_length=LIST_MAX)
]
Domains = Annotated[
    tuple[Annotated[str, Field(max_length=253), AfterValidator(domain_of)], ...], Field(max_length=LIST_MAX)
]
NETWORKS = "The only networks from which the key may be used, such as 203.0.113.0/24; empty for all."
DOMAINS = (
    "The only sites whose pages may call with the key, by Origin or Referer, their subdomains included; "
    "empty for all. Programs can state any site."
)
UNPAID = "The day of the oldest unpaid invoice, in the billing timezone; null when nothing is unpaid."
PURCHASED = "When the key was bought; null for one that was not."


class KeyFields(Input):
    """Fields that a key may be made with."""

    account_id: AccountId
    plan: Text
    site: Text | None = Field(None, description="The client site that the key is sold to.")
    label: Text | None = None
    purchased_at: Instant | None = Field(None, description=PURCHASED)
    daily_limit: Limit | None = Field(None, description="Units a day, in place of the plan's limit.")
    unlimited: bool = Field(False, description="Lifts every limit.")
    window: Window | None = Field(None, description="In place of the plan's window.")
    expires_at: Instant | None = None
    default_provider: Text | None = Field(None, description="Provider of a call that names none.")
    default_search_method: Text | None = Field(None, description="SearchMethod of a search that names none.")
    signing_secret: Text | None = Field(
        None, description="With one, unsigned calls are refused on signed routes."
    )
    allow_networks: Networks = Field((), description=NETWORKS)
    allow_domains: Domains = Field((), description=DOMAINS)


class NewKey(KeyFields):
    """A key to be made. Without `purchased_at` it is bought now, unless its plan is a sandbox."""


class ImportedKey(KeyFields):
    """A key that was issued elsewhere. Without `purchased_at` it has no free month."""

    credential: Annotated[str, Field(min_length=IMPORTED_MIN, max_length=IMPORTED_MAX)]


class KeyImport(Input):
    """Keys to be taken over, all or none."""

    keys: list[ImportedKey] = Field(min_length=1, max_length=MAX_IMPORT)


class KeyChange(Input):
    """Fields of a key to be set; those that are absent stay, null clears."""

    site: Text | None = None
    label: Text | None = None
    purchased_at: Instant | None = Field(None, description=PURCHASED)
    daily_limit: Limit | None = None
    unlimited: bool = False
    window: Window | None = None
    expires_at: Instant | None = None
    oldest_unpaid_issued_on: Day | None = Field(None, description=UNPAID)
    default_provider: Text | None = None
    default_search_method: Text | None = None
    signing_secret: Text | None = None
    allow_networks: Networks = Field((), description=NETWORKS)
    allow_domains: Domains = Field((), description=DOMAINS)


class Rotation(Input):
    """How long the old text of a key is still accepted."""

    overlap_s: float = Field(
        DEFAULT_OVERLAP_S,
        ge=0,
        le=MAX_OVERLAP_S,
        allow_inf_nan=False,
        description="Seconds; 0 ends it at once.",
    )


class Suspension(Input):
    """Why a key is held."""

    reason: Text | None = None


class Closing(Input):
    """When a key's service ends; without `at`, now."""

    at: Instant | None = None


class KeysQuery(PageQuery):
    """Which keys to list."""

    account: AccountId | None = None
    pepper: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Only keys with a text that is known under this pepper alone."
    )


class Credential(Output):
    """A text that is or was accepted as the key, known by its last characters."""

    hint: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Key(Output):
    """A key, with what its contract says right now."""

    id: str
    account_id: str
    plan: str
    site: str | None
    label: str | None
    created_at: datetime
    purchased_at: datetime | None
    daily_limit: int | None
    unlimited: bool
    window: Window | None
    expires_at: datetime | None
    revoked_at: datetime | None
    suspended_at: datetime | None
    suspended_reason: str | None
    closed_at: datetime | None
    oldest_unpaid_issued_on: date | None = Field(description=UNPAID)
    default_provider: str | None
    default_search_method: str | None
    allow_networks: list[str] = Field(description=NETWORKS)
    allow_domains: list[str] = Field(description=DOMAINS)
    signed: bool = Field(description="Whether it has a signing secret.")
    credentials: list[Credential] = Field(description="The newest first.")
    revision: int
    standing: Standing
    limit_now: int | None = Field(description="The limit that holds now, in units; null for none.")
    window_now: Window = Field(description="The window that holds now.")
    in_trial: bool
    in_force: bool = Field(False, description="False while the newest change has yet to reach the gateways.")


class KeyWithUsage(Key):
    """A key with what it used today."""

    used_now: int | None = Field(None, description="Units in use in the window; null while Redis is away.")


class KeyWithText(Key):
    """A key with its text, which is told this once."""

    key: str | None = Field(description="The key itself. It is not stored; a repeated request shows null.")


class KeyPage(Output):
    """Keys, the oldest first."""

    items: list[Key]
    next_cursor: str | None


class ImportedKeys(Output):
    """What became of an import, in the order of the request."""

    imported: int
    ids: list[str]
    in_force: bool = False


def key_fields(key: ledger.Key, contract: Contract, now: datetime) -> dict[str, Any]:
    """Return what is shown of a key: its row, its standing and limit at `now`; no digest, no secret."""
    held = conditions(ledger.record_of(key), contract, now.timestamp())
    shown = {name: getattr(key, name) for name in Key.model_fields if hasattr(key, name)}
    shown |= {name: list(shown[name]) for name in ledger.LISTS}
    shown["credentials"] = [
        Credential(
            hint=each.hint,
            created_at=each.created_at,
            expires_at=each.expires_at,
            revoked_at=each.revoked_at,
        )
        for each in key.credentials
        if each.carried_to is None  # the same text stands under a newer pepper
    ]
    return shown | {
        "signed": key.signing_secret is not None,
        "standing": held.standing,
        "limit_now": held.limit,
        "window_now": held.window,
        "in_trial": held.in_trial,
        "in_force": key.projected_revision >= key.revision,
    }
