"""What billing goes by, out of the settings."""

from __future__ import annotations

from gateway.settings import Settings
from metering.billing.terms import DUE_DAYS, Terms
from metering.catalogue_entry import Shop


def terms_of(settings: Settings) -> Terms:
    """Return the contract and the days that invoices, payments and disputes go by.

    The last day to pay is never one on which the ladder has begun already.
    """
    billing = settings.billing
    return Terms(
        contract=settings.contract,
        currency=billing.currency,
        issue_day=billing.issue_day,
        due_days=min([DUE_DAYS, *(step.after_days for step in settings.contract.steps)]),
        dispute_days=billing.dispute_days,
        disputed_counts_as_unpaid=billing.disputed_counts_as_unpaid,
    )


def shop_of(settings: Settings) -> Shop:
    """Return what price lists are read against: the plans that are sold, the currency and the notice."""
    billing = settings.billing
    return Shop(
        plans={plan.name for plan in settings.contract.plans.values() if not plan.sandbox},
        currency=billing.currency,
        zone=settings.contract.zone,
        minimum_proration=billing.minimum_proration,
        notice_days=billing.notice_days,
    )
