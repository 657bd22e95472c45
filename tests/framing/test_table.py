"""The table of docs/http.md."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.failures import Failure
from policies.decision import Reason
from tests.framing.case import ANSWERED, CLOSED
from tests.framing.corpus import RULES
from tests.framing.table import table

PAGE = Path(__file__).parent.parent.parent / "docs" / "http.md"


def test_the_page_says_what_the_requests_show() -> None:
    """The table is the one that `python -m tests.framing.table` prints, and the total is right."""
    page = PAGE.read_text(encoding="utf-8")
    assert table() in page
    stated = re.search(r"\*\*(\d+) requests\*\*", page)
    assert stated is not None
    assert int(stated[1]) == sum(len(rule.cases) for rule in RULES)


def test_every_refusal_has_a_name() -> None:
    """The answers in the table are reasons and failures that docs/refusals.md explains."""
    names = {reason.value for reason in Reason} | {failure.value.name for failure in Failure}
    assert {answer for rule in RULES for answer in rule.answers} <= names | {ANSWERED, CLOSED}


def test_the_corpus_is_large() -> None:
    """There are at least 150 hostile requests, and no two of them are the same."""
    cases = [raw for rule in RULES for raw in rule.cases.values()]
    assert len(cases) == len(set(cases)) >= 150
