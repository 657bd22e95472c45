"""What a refusal says to people: what is wrong with the call, and what to do about it."""

from __future__ import annotations

from typing import Final

from gateway.failures import Failure
from policies.decision import Reason

SENTENCES: Final = {
    Reason.MISSING_KEY: "The call carries no API key. Send your key as this API expects it.",
    Reason.AMBIGUOUS_KEY: "The call carries more than one API key. Send one key, in one place.",
    Reason.UNKNOWN_KEY: "The API key is not known. Check that it was copied whole.",
    Reason.REVOKED_KEY: "The API key was revoked. Use the key that replaced it, or ask for a new one.",
    Reason.EXPIRED_KEY: "The API key has expired. Ask for a new one.",
    Reason.SUSPENDED: "The API key is suspended. Contact the seller to have it resumed.",
    Reason.CLOSED: "The API key was closed at the end of its service.",
    Reason.BANNED: "The API key is banned because an invoice is unpaid. Paying it lifts the ban at once.",
    Reason.RESTRICTED: (
        "An invoice is unpaid, so this method is blocked for the API key. Paying it lifts the block at once."
    ),
    Reason.UNKNOWN_METHOD: "The method is not known here. Check its name.",
    Reason.METHOD_NOT_IN_PLAN: "The API key's plan does not include this method.",
    Reason.UNREADABLE: "The method of the call cannot be read for certain. Name it once, in its plain form.",
    Reason.MISSING_SIGNATURE: "Calls with this API key have to be signed, and the signature is missing.",
    Reason.INVALID_SIGNATURE: "The signature does not match the call. Check secret and parameters.",
    Reason.MISSING_TIMESTAMP: "Calls with this API key have to carry a timestamp, and it is missing.",
    Reason.INVALID_TIMESTAMP: "The timestamp is malformed or too far off. Send yyyyMMddHHmmss in UTC.",
    Reason.ADDRESS_NOT_ALLOWED: "The API key may not be used from this network address.",
    Reason.SITE_NOT_ALLOWED: "The API key may be used from pages of its own site only.",
    Reason.QUOTA_EXCEEDED: "The API key's limit of calls is used up. Retry-After says when there are more.",
}


def sentence(cause: Reason | Failure) -> str:
    """Return the sentence for a refusal or a failure."""
    return cause.value.sentence if isinstance(cause, Failure) else SENTENCES[cause]
