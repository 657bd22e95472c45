"""The ledger: PostgreSQL's tables, how they come to be, and one file of queries per noun.

Owns: the schema (`tables`) and its migrations, accounts, keys with their credentials, API tokens, the audit
log, the answers kept for idempotent requests, the usage that roll-ups wrote, versions of prices and moves
between them, invoices, payments, disputes, credit notes, notices and webhooks, and ledgers to throw away
(`scratch`).

Every function works on a connection that the caller opened, inside the caller's transaction. A change of an
account, a key or a token writes its audit row in that same transaction, so there is no change without one.
"""

from __future__ import annotations

from metering.ledger.engine import DRIVER_ERRORS, make_engine, migrate
from metering.ledger.rows import CredentialTakenError, NotFoundError, Page

__all__ = ["DRIVER_ERRORS", "CredentialTakenError", "NotFoundError", "Page", "make_engine", "migrate"]
