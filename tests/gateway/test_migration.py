"""The ledger's schema brought up to date by a process of the installed version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway import migration
from gateway.first_start import LedgerError
from metering.ledger import inventory, make_engine
from tests.schema import set_back


def environ(tmp_path: Path, url: str) -> dict[str, str]:
    """An environment with a ledger and nothing else of Tallygate's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
    return own | {"TALLYGATE_DATA_DIR": str(tmp_path), "TALLYGATE_DATABASE_URL": url}


async def test_an_older_schema_is_brought_to_the_newest(tmp_path: Path, database_url: str) -> None:
    """When the process has ended the ledger is what this version knows."""
    engine = make_engine(database_url)
    async with engine.connect() as connection:
        newest = (await inventory.take(connection)).revision
    await set_back(database_url, "0004")
    await migration.in_new_process(environ(tmp_path, database_url))
    async with engine.connect() as connection:
        assert (await inventory.take(connection)).revision == newest
    await engine.dispose()


async def test_a_migration_that_fails_says_why(tmp_path: Path, database_url: str) -> None:
    """Whoever asked for it hears the reason, without the password."""
    url = sa.make_url(database_url).set(database="no_such_database")
    with pytest.raises(LedgerError, match="no_such_database") as failed:
        await migration.in_new_process(environ(tmp_path, url.render_as_string(hide_password=False)))
    assert url.password is not None
    assert str(url.password) not in str(failed.value)
