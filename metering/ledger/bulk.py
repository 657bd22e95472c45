"""Many rows in one statement: their columns travel as arrays, and no row costs a statement of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Insert, insert

from metering.ledger.tables import Json


def inserting(table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> tuple[Insert, dict[str, list[Any]]]:
    """Return a statement that adds rows of the same columns in their order, and its parameters.

    There is at least one row. As the statement does not depend on the values, it is prepared once.
    """
    names = list(rows[0])
    arrays, columns, values = [], [], {}
    for name in names:
        is_json = table.c[name].type is Json
        kind: Any = sa.Text() if is_json else table.c[name].type
        arrays.append(sa.bindparam(f"all_{name}", type_=sa.ARRAY(kind)))
        columns.append(sa.column(name, kind))
        column = [row[name] for row in rows]
        values[f"all_{name}"] = list(map(_as_text, column)) if is_json else column
    given = (
        sa.func.unnest(*arrays).table_valued(*columns, with_ordinality="place").render_derived(name="given")
    )
    picked = [sa.cast(given.c[name], Json) if table.c[name].type is Json else given.c[name] for name in names]
    return insert(table).from_select(names, sa.select(*picked).order_by(given.c.place)), values


def _as_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
