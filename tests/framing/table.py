"""Print what becomes of hostile requests as the table of docs/http.md: `python -m tests.framing.table`."""

from __future__ import annotations

from tests.framing.case import ANSWERED, CLOSED
from tests.framing.corpus import RULES

_WORDS = {ANSWERED: "answered", CLOSED: "closed without an answer"}


def table() -> str:
    """Return the table in Markdown: what comes, what is answered, why, and how many requests show it."""
    lines = ["| what comes | answer | why | requests |", "|---|---|---|---|"]
    for rule in RULES:
        answers = ", then ".join(_WORDS.get(answer) or f"`{answer}`" for answer in rule.answers)
        lines.append(f"| {rule.what} | {answers} | {rule.why} | {len(rule.cases)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
