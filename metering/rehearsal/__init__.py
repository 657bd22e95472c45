"""Rehearsals: a fleet of made-up customers lives through months of the contract, in seconds.

Owns: who the customers are and what they plan (`fleet`, pure), books kept beside the ledger by other means
(`books`, pure), what is sold to them (`prices`), the clock (`stage`), what single customers do (`deeds`),
what happens to all (`run`), what must hold at the end (`checks`), and how it is told (`report`). All is done
by the same functions as in earnest, on a ledger to throw away, with the time passed in; equal arguments give
equal reports.

Does not own: prices, invoices, payments, standing. What is rehearsed is all of theirs.
"""

from __future__ import annotations

from metering.rehearsal.report import Report
from metering.rehearsal.run import rehearse

__all__ = ["Report", "rehearse"]
