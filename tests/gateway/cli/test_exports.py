"""Months for accountants by command: FOCUS rows as CSV and as Parquet."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gateway.cli import exports, parquet
from metering import focus
from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import Shop
from tests.metering.focus.datasets import ROWS


def beginning(directory: Path, name: str) -> list[str]:
    """Return the names of files in a directory that begin so."""
    return [path.name for path in directory.glob(f"{name}*")]


async def test_parquet_holds_what_csv_holds(shop: Shop, cli: Cli, tmp_path: Path) -> None:
    """Numbers are exact decimals, instants are in UTC, what does not apply is null, and columns are told."""
    await shop.bill()
    sheet, table = tmp_path / "october.csv", tmp_path / "october.parquet"
    for path in (sheet, table):
        written = await cli("export", "focus", "--period", "2026-10", "--output", str(path))
        assert (written.code, written.err.strip()) == (0, f"{path}: 2 rows of 2026-10.")
    found = pyarrow.parquet.read_table(table)
    assert found.schema.field("BilledCost").type == pyarrow.decimal128(38, 12)
    assert found.schema.field("ChargePeriodStart").type == pyarrow.timestamp("us", tz="UTC")
    rows = found.to_pylist()
    assert sum(row["BilledCost"] for row in rows) == Decimal("125.00")
    assert rows[0]["ChargePeriodStart"] == datetime(2026, 9, 30, 21, tzinfo=UTC)
    assert rows[0]["ChargeClass"] is None
    with sheet.open(encoding="utf-8", newline="") as file:
        for row, same in zip(rows, csv.DictReader(file), strict=True):
            assert row["SkuPriceId"] == same["SkuPriceId"]
            assert row["ListUnitPrice"] == Decimal(same["ListUnitPrice"])
    told = json.loads(pyarrow.parquet.read_schema(table).metadata[b"FocusMetadata"])
    schema = await cli("export", "focus-schema")
    assert told == schema.json
    assert [each["ColumnName"] for each in told["Schema"]["ColumnDefinition"]] == found.column_names


async def test_a_month_goes_on_over_pages(
    shop: Shop, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invoices of one page each, and the list of credit notes behind them, make one file."""
    monkeypatch.setattr(exports, "PAGE", 1)
    other = Shop(shop.api, shop.engine, shop.clock)
    account = await shop.api.post("/v1/accounts", {"name": "Other"})
    key = await shop.api.post("/v1/keys", {"account_id": account.body["id"], "plan": "K1"})
    other.account, other.key = account.body["id"], key.body["id"]
    await other.count(date(2026, 10, 6), 10)
    await shop.bill()
    path = tmp_path / "october.parquet"
    await cli("export", "focus", "--period", "2026-10", "--output", str(path))
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert {row["InvoiceId"] for row in rows} == {"INV-000001", "INV-000002"}
    printed = await cli("export", "focus", "--period", "2026-10")
    assert len(list(csv.DictReader(printed.out.splitlines()))) == len(rows)


async def test_a_month_without_invoices_has_its_columns(cli: Cli, tmp_path: Path) -> None:
    """There is a file without rows, and none is left under another name."""
    path = tmp_path / "empty"
    line = ("export", "focus", "--period", "2026-10", "--format", "parquet", "--output", str(path))
    assert (await cli(*line)).code == 0
    assert pyarrow.parquet.read_table(path).num_rows == 0
    assert beginning(tmp_path, "empty") == ["empty"]


async def test_without_pyarrow_the_extra_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lacks it is told what to install, and no file is left behind."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "october.parquet"
    refused = await cli("export", "focus", "--period", "2026-10", "--output", str(path))
    assert (refused.code, "pip install 'tallygate[parquet]'" in refused.err) == (1, True), refused.err
    assert beginning(tmp_path, "october") == []


async def test_parquet_does_not_go_to_a_terminal(cli: Cli) -> None:
    """A file that is no text is asked a name."""
    refused = await cli("export", "focus", "--period", "2026-10", "--format", "parquet")
    assert (refused.code, "--output october.parquet" in refused.err) == (1, True)


def test_rows_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are, no more than a group of them is held."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 7)
    texts = [focus.written(row) for row in ROWS]
    with parquet.Writer(tmp_path / "rows.parquet", "Seller") as writer:
        writer.add(texts)
    file = pyarrow.parquet.ParquetFile(tmp_path / "rows.parquet")
    assert file.metadata.num_row_groups == -(-len(ROWS) // 7)
    assert [row["BilledCost"] for row in file.read().to_pylist()] == [row["BilledCost"] for row in ROWS]
