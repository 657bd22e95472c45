"""FOCUS rows as a Parquet file: decimals stay exact, instants are in UTC, and a few rows are held at a time.

pyarrow comes with the extra `parquet`; it is looked for when a file is to be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from gateway.cli.output import CliError
from metering import focus
from metering.focus import Kind

GROUP_ROWS = 20_000  # of a row group: what is held in memory


class Writer:
    """Writes rows to a file, a row group at a time; without rows the file has none, and all columns."""

    def __init__(self, path: Path, generator: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise CliError(
                "Parquet needs pyarrow, which comes with the extra: pip install 'tallygate[parquet]'.\n"
                "CSV (--format csv) needs nothing."
            ) from error
        self._arrow = pyarrow
        # Where columns are told without opening the rows, as the specification asks.
        told = {"FocusMetadata": json.dumps(focus.metadata(generator), ensure_ascii=False)}
        fields = [pyarrow.field(column.name, self._type(column.kind)) for column in focus.COLUMNS]
        self._schema = pyarrow.schema(fields, metadata=told)
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[Mapping[str, str | None]] = []
        self.rows = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._file.close()

    def add(self, rows: Iterable[Mapping[str, str | None]]) -> None:
        """Take rows as the API writes them: text by column."""
        for row in rows:
            self._held.append(row)
            if len(self._held) == GROUP_ROWS:
                self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        columns = {
            column.name: [_value(column.kind, row[column.name]) for row in self._held]
            for column in focus.COLUMNS
        }
        self._file.write_table(self._arrow.table(columns, schema=self._schema))
        self.rows += len(self._held)
        self._held = []

    def _type(self, kind: Kind) -> Any:
        match kind:
            case Kind.NUMBER:
                return self._arrow.decimal128(focus.PRECISION, focus.PLACES)
            case Kind.INSTANT:
                return self._arrow.timestamp("us", tz="UTC")
            case Kind.TEXT | Kind.JSON:
                return self._arrow.string()


def _value(kind: Kind, text: str | None) -> Any:
    if text is None:
        return None
    match kind:
        case Kind.NUMBER:
            return Decimal(text)
        case Kind.INSTANT:
            return datetime.fromisoformat(text)
        case Kind.TEXT | Kind.JSON:
            return text
