"""Method rules: to which class a call belongs, whether it is paid, and what it costs (contract OT-8, OT-15).

A rule matches methods by an explicit name or by a pattern with `*`. Names are compared without regard to
case, because upstreams may do so too, and a key must not slip past its restriction by spelling. A pattern's
calls are counted under the pattern itself, so the number of counted names is bounded by the configuration.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

SEARCH = "search"
OFFICIAL_SEARCH = "official_search"
OTHER = "other"
PROVIDER = "Provider"


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


def _no_costs() -> Mapping[str, int]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read of a call's parameters.

    `values` holds plain parameters, and direct children of the root of the XML parameters that the rule
    names, by name. `certain` is False when anything (a doubled name, a comment, an entity, a second encoding,
    a body over the bound) leaves room for the upstream to read it otherwise; `mentions` then holds the
    watched names that occur at all.
    """

    certain: bool = True
    values: Mapping[str, str] = field(default_factory=_nothing)
    mentions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Surcharge:
    """A cost that replaces the rule's own when parameter `name` has the value `equals`.

    Letter case is no matter, and `1` and `0` are `true` and `false`, as XML has it. `by_provider` holds the
    cost for providers where it is another one.
    """

    name: str
    equals: str
    cost: int
    by_provider: Mapping[str, int] = field(default_factory=_no_costs)

    def applies(self, reading: Reading) -> bool:
        """Say whether a call pays it; a mention that cannot be read counts, as the upstream may act on it."""
        if not reading.certain:
            return self.name in reading.mentions
        return _plain(reading.values.get(self.name, "")) == _plain(self.equals)

    def cost_for(self, provider: str | None, reading: Reading) -> int:
        """Return the cost for a provider, or the dearest one when the call leaves its provider in doubt."""
        if not reading.certain and PROVIDER in reading.mentions:
            return max([self.cost, *self.by_provider.values()])
        folded = _plain(provider or "")
        return next((cost for name, cost in self.by_provider.items() if _plain(name) == folded), self.cost)


@dataclass(frozen=True, slots=True)
class MethodRule:
    """One `[[methods]]` entry.

    `cost` is in units. `cost_items` names the path of the list in the answer whose length is the cost (bulk
    results), in which case `cost` is what is taken beforehand. `official` is (provider, search method) of the
    exempt search. `read` names the parameters that hold XML.
    """

    match: tuple[str, ...]
    klass: str
    billable: bool = False
    cost: int = 1
    cost_items: str | None = None
    official: tuple[str, str] | None = None
    read: tuple[str, ...] = ()
    surcharges: tuple[Surcharge, ...] = ()

    @property
    def needs_parameters(self) -> bool:
        """Say whether the rule depends on parameters, and the body may have to be read to know them."""
        return self.official is not None or bool(self.surcharges)

    @property
    def watched(self) -> frozenset[str]:
        """Return the names whose values the rule looks at."""
        names = {surcharge.name for surcharge in self.surcharges}
        if self.official is not None or any(surcharge.by_provider for surcharge in self.surcharges):
            names |= {PROVIDER}
        if self.official is not None:
            names |= {"SearchMethod", "CategoryId"}
        return frozenset(names)


class Call(NamedTuple):
    """A call as the contract sees it: counted method name, class, whether it is paid, cost in units."""

    method: str
    klass: str
    billable: bool
    cost: int = 1
    cost_items: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class and the wider one it belongs to."""
        return classes_of(self.klass)


def classes_of(klass: str) -> tuple[str, ...]:
    """Return a class and the wider one it belongs to: an official search is a search too."""
    return (OFFICIAL_SEARCH, SEARCH) if klass == OFFICIAL_SEARCH else (klass,)


UNKNOWN_METHOD = MethodRule(match=("*",), klass=OTHER)


class MethodTable:
    """All rules of a route set, looked up by the method's name."""

    def __init__(self, rules: tuple[MethodRule, ...]) -> None:
        self._exact: dict[str, tuple[str, MethodRule]] = {}
        self._patterns: list[tuple[re.Pattern[str], str, MethodRule]] = []
        for rule in rules:
            for name in rule.match:
                if "*" in name:
                    self._patterns.append((_pattern(name), name, rule))
                else:
                    self._exact.setdefault(name.lower(), (name, rule))
        self.rules = rules

    def lookup(self, method: str) -> tuple[str, MethodRule] | None:
        """Return the counted name and the rule of `method`, or None when no rule knows it.

        An explicit name wins over a pattern; among patterns the first one wins. A path with one slash more or
        less at its end is the same to many servers, so it has the same explicit name.
        """
        folded = method.lower()
        is_path = " /" in folded
        bare = folded[:-1] if is_path and folded[-1] == "/" else folded
        found = self._exact.get(folded) or self._exact.get(bare)
        if found is None and is_path:
            found = self._exact.get(bare + "/")
        if found is not None:
            return found
        for pattern, name, rule in self._patterns:
            if pattern.match(folded) or (bare != folded and pattern.match(bare)):
                return name, rule
        return None


def classify(
    counted_name: str,
    rule: MethodRule,
    reading: Reading,
    default_provider: str | None = None,
    default_search_method: str | None = None,
) -> Call:
    """Return the call's class and cost from its rule and what could be read of its parameters.

    A search is official only when provider and search method are both known for certain. Without a Provider
    the upstream derives it from the category when there is one, so the key's default stands in only where no
    category is named. An empty value is none.
    """
    if not rule.needs_parameters:
        return Call(counted_name, rule.klass, rule.billable, rule.cost, rule.cost_items)
    values = reading.values
    provider = values.get(PROVIDER) or (None if values.get("CategoryId") else default_provider)
    klass = rule.klass
    if rule.official is not None and reading.certain:
        search_method = values.get("SearchMethod") or default_search_method
        if (provider, search_method) == rule.official:
            klass = OFFICIAL_SEARCH
    return Call(counted_name, klass, rule.billable, _cost(rule, reading, provider), rule.cost_items)


def _cost(rule: MethodRule, reading: Reading, provider: str | None) -> int:
    """The dearest surcharge that applies, and never less than the rule's own cost."""
    if not rule.surcharges:
        return rule.cost
    applying = (surcharge for surcharge in rule.surcharges if surcharge.applies(reading))
    return max([rule.cost, *(surcharge.cost_for(provider, reading) for surcharge in applying)])


def _plain(value: str) -> str:
    """Fold away what makes no difference to a lenient reader: outer space, letter case, 1 for true."""
    text = value.strip().lower()
    return {"1": "true", "0": "false"}.get(text, text)


def _pattern(name: str) -> re.Pattern[str]:
    """Compile a name in which only `*` has a meaning; what fnmatch writes cannot be made to backtrack."""
    literal = name.lower().replace("[", "[[]").replace("?", "[?]")
    return re.compile(fnmatch.translate(literal))
