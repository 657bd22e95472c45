"""Books on an empty ledger."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.metering.billing.books import Books


@pytest.fixture
def books(engine: AsyncEngine) -> Books:
    """A ledger without prices, in Moscow's time."""
    return Books(engine)
