"""Invoices as a FOCUS 1.2 `CostAndUsage` dataset (FinOps Open Cost and Usage Specification), pure.

Owns: which columns the dataset has and of which type, and what each row holds. Does not own how rows are
fetched, or written as CSV, JSON or Parquet.
"""

from __future__ import annotations

from metering.focus.columns import (
    COLUMNS,
    FOCUS_VERSION,
    PLACES,
    PRECISION,
    SCHEMA_ID,
    Column,
    Kind,
    metadata,
)
from metering.focus.rows import Row, credit_note_rows, invoice_rows, written

__all__ = [
    "COLUMNS",
    "FOCUS_VERSION",
    "PLACES",
    "PRECISION",
    "SCHEMA_ID",
    "Column",
    "Kind",
    "Row",
    "credit_note_rows",
    "invoice_rows",
    "metadata",
    "written",
]
