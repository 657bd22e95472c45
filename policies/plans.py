"""Plans: what a kind of key may do in a day, and on which methods (contract OT-1, OT-3)."""

from __future__ import annotations

from dataclasses import dataclass

from policies.quota import Window


@dataclass(frozen=True, slots=True)
class Plan:
    """The terms of one kind of key.

    `daily_limit` is in units (a plain call is one unit), None for no limit. `methods` names the only methods,
    or the only classes written as `class:search`, that the plan allows, spelled as the rules spell them; None
    allows all. A method that is counted under a pattern is named by the pattern. `sandbox` keys are free,
    cannot be bought, and stamp the customer's first request. `lifetime_months` ends a key at local midnight
    of the same day that many months after it was made.
    """

    name: str
    daily_limit: int | None
    window: Window = Window.DAY
    sandbox: bool = False
    methods: frozenset[str] | None = None
    lifetime_months: int | None = None

    def allows(self, method: str, classes: tuple[str, ...]) -> bool:
        """Say whether the plan lets a key call `method`, which belongs to `classes`."""
        if self.methods is None or method in self.methods:
            return True
        return any(f"class:{name}" in self.methods for name in classes)
