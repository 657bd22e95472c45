"""What pydantic finds wrong with input from outside, said so that a person can put it right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# Their values may be or hold a secret, and are left out of messages.
SECRET_FIELDS = frozenset({"redis", "database", "credential", "signing_secret"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `place` in the input, such as `deny[2]` or empty for the whole, and why."""

    place: str
    message: str


def findings(kind: type[BaseModel], error: ValidationError) -> list[Finding]:
    """Return what is wrong, one finding a place; places are written as the input's author names them."""
    # A value that fits no member of a union is reported once per member: one message is enough.
    told: dict[str, str] = {}
    for details in error.errors(include_url=False):
        place, message = _finding(kind, details)
        told.setdefault(place, message)
    return [Finding(place, message) for place, message in told.items()]


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to a wrong one, or nothing."""
    by_folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wrong.lower(), by_folded, n=1)
    return f"; did you mean {by_folded[close[0]]!r}?" if close else ""


def _finding(kind: type[BaseModel], details: ErrorDetails) -> tuple[str, str]:
    location = details["loc"]
    unknown = details["type"] == "extra_forbidden"
    place = ""
    table: type[BaseModel] | None = kind
    names: list[str] = []
    for depth, part in enumerate(location):
        if isinstance(part, int):
            place += f"[{part + 1}]"
            continue
        fields = _fields(table)
        last = depth == len(location) - 1
        if table is not None and part not in fields and not (unknown and last):
            break  # the rest names a member of a union, which means nothing to the author
        place += f".{part}" if place else part
        names.append(part)
        if not last:
            table = fields.get(part)
    if unknown:
        return place, f"is unknown{suggestion(str(location[-1]), _fields(table))}"
    if details["type"] == "missing":
        return place, "is required"
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message[:1].lower() + message[1:]
    value = details["input"]
    telling = details["type"] != "value_error" and isinstance(value, str | int | float | bool)
    if telling and names and SECRET_FIELDS.isdisjoint(names) and len(str(value)) <= 100:
        message += f", not {str(value).lower() if isinstance(value, bool) else repr(value)}"
    return place, message


def _fields(table: type[BaseModel] | None) -> dict[str, type[BaseModel] | None]:
    """Return the fields by the name that the author uses, with the inner table where there is one."""
    fields: dict[str, type[BaseModel] | None] = {}
    for name, field in (table.model_fields if table is not None else {}).items():
        fields[field.alias or name] = _inner(field.annotation)
    return fields


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _inner(argument)) is not None:
            return found
    return None
