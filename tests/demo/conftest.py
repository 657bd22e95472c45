"""A catalogue, and a marketplace open to everyone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from demo.access import Access
from demo.catalogue import Catalogue, make_catalogue
from tests.demo.shop import Shop, running


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """A catalogue smaller than the program's own, made once."""
    return make_catalogue(items=800)


@pytest.fixture
async def shop(catalogue: Catalogue) -> AsyncIterator[Shop]:
    """A running marketplace."""
    async with running(catalogue, Access(None, None)) as found:
        yield found
