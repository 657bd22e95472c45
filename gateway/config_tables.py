"""The tables of a configuration file, checked one by one; what is wrong is taken down and reading goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

from gateway.config_model import Table
from gateway.validation import findings

T = TypeVar("T", bound=Table)


class Tables:
    """A file's content; `errors` fills up while it is read."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.errors: list[str] = []

    def table(self, name: str, kind: type[T]) -> T | None:
        """Read one of the file's single tables; a missing one has its defaults."""
        return self.validated(kind, self.raw.get(name, {}), name)

    def entries(self, name: str, kind: type[T], label: str) -> Iterable[tuple[str, Any, T | None]]:
        """Read a list of tables as (place for messages, raw entry, entry or None when it has errors)."""
        raw = self.raw.get(name, [])
        if not isinstance(raw, list):
            self.errors.append(f"{name}: must be a list of tables, written [[{name}]]")
            return
        for number, entry in enumerate(raw, 1):
            named = entry.get(label) if isinstance(entry, dict) else None
            named = named[0] if isinstance(named, list) and named else named
            place = f'{name}["{named}"]' if isinstance(named, str) else f"{name}[{number}]"
            yield place, entry, self.validated(kind, entry, place)

    def validated(self, kind: type[T], raw: object, place: str) -> T | None:
        """Check one table against its model, taking down what is wrong."""
        try:
            return kind.model_validate(raw)
        except ValidationError as error:
            for finding in findings(kind, error):
                joint = "." if finding.place and not finding.place.startswith("[") else ""
                self.errors.append(f"{place}{joint}{finding.place}: {finding.message}")
            return None
