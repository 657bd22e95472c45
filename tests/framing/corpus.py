"""All hostile requests, by the rule that they show."""

from __future__ import annotations

from tests.framing import bodies, fields, lines, sequences
from tests.framing.case import Rule

RULES: tuple[Rule, ...] = (*lines.RULES, *fields.RULES, *bodies.RULES, *sequences.RULES)
