"""Mutants of a Lua script: copies in which one thing is another, or missing. Pure.

What would fail at once whoever runs it, such as a misspelt command, is left out: noticing it proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*)"
    r"|(?P<string>'[^'\n]*')"
    r"|(?P<number>\d+)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<operator>==|~=|<=|>=|\.\.|[-+*/<>=#(){}\[\],.])"
)
_OTHERS = {
    "==": "~=", "~=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "*": "/", "/": "*",
    "and": "or", "or": "and", "true": "false", "false": "true", "min": "max", "max": "min", "pcall": "call",
}  # fmt: skip
_FUNCTIONS = {"min": "math", "max": "math", "pcall": "redis"}  # what these are only mutated as parts of
_BLOCK_BEGINS = {"then", "else", "do"}
_BLOCK_ENDS = {"end", "else", "elseif"}
_NO_STATEMENT = {"local", "return", "if", "elseif", "for", "while", "function", *_BLOCK_ENDS}
_NO_OPERAND = {"and", "or", "not", *_BLOCK_BEGINS, *_NO_STATEMENT}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed script; `what` says where and how, and is another one for each mutant of the script."""

    what: str
    text: str


class _Token(NamedTuple):
    kind: str
    text: str
    first: int
    last: int  # the index behind it


def mutants(script: str) -> Iterator[Mutant]:
    """Yield the mutants of a script, in its order."""
    tokens = list(_tokens(script))
    for index, token in enumerate(tokens):
        if index and script.rfind("\n", tokens[index - 1].last, token.first) < 0:
            begins = tokens[index - 1].text in _BLOCK_BEGINS
        else:
            begins = token.kind == "name"
        if begins and token.text not in _NO_STATEMENT:
            last = _end_of_statement(script, tokens, index)
            if last is not None:
                yield _mutant(script, token.first, last, "")
        if token.text in {"if", "elseif", "while"} and tokens[index + 2].text in _BLOCK_BEGINS:
            condition = tokens[index + 1]
            yield _mutant(script, condition.first, condition.last, f"not {condition.text}")
        for other in _others(tokens, index):
            # What stands for nothing takes the blank behind it along.
            last = token.last + (not other and script[token.last] == " ")
            yield _mutant(script, token.first, last, other)


def _others(tokens: list[_Token], index: int) -> Iterator[str]:
    """Yield what could stand in a token's place."""
    kind, text, *_ = tokens[index]
    before = tokens[index - 1] if index else None
    if kind == "number":
        yield str(int(text) + 1)
    elif kind == "string":
        is_command = index > 1 and tokens[index - 2].text in {"call", "pcall"}
        if not is_command:
            yield "'XX" + text[1:-1] + "XX'"
    elif text == "not":
        yield ""
    elif text == "-":
        operand = before is not None and (before.kind in {"number", "name"} or before.text in {")", "]"})
        yield "+" if operand and before is not None and before.text not in _NO_OPERAND else ""
    elif text in _OTHERS and (text not in _FUNCTIONS or tokens[index - 2].text == _FUNCTIONS[text]):
        yield _OTHERS[text]


def _end_of_statement(script: str, tokens: list[_Token], index: int) -> int | None:
    """Return where a call or an assignment ends that begins with a token; None when it is neither."""
    depth = 0
    is_statement = False
    for at in range(index, len(tokens)):
        token = tokens[at]
        if token.text in {"(", "{", "["}:
            is_statement |= token.text == "(" and depth == 0
            depth += 1
        elif token.text in {")", "}", "]"}:
            depth -= 1
        is_statement |= token.text == "=" and depth == 0
        follows = tokens[at + 1] if at + 1 < len(tokens) else None
        if depth == 0 and (
            follows is None or follows.text in _BLOCK_ENDS or "\n" in script[token.last : follows.first]
        ):
            return token.last if is_statement else None
    return None


def _mutant(script: str, first: int, last: int, new: str) -> Mutant:
    line = script.count("\n", 0, first) + 1
    column = first - script.rfind("\n", 0, first)
    old = " ".join(script[first:last].split())
    change = f"`{old}` dropped" if not new else f"`{old}` is `{new}`"
    return Mutant(f"{line}:{column}: {change}", script[:first] + new + script[last:])


def _tokens(script: str) -> Iterator[_Token]:
    at = 0
    while at < len(script):
        found = _TOKEN.match(script, at)
        if found is None:
            raise ValueError(f"no token of a script: {script[at : at + 20]!r}")
        kind = found.lastgroup
        assert kind is not None  # each alternative has a name
        if kind != "space":
            yield _Token(kind, found.group(), at, found.end())
        at = found.end()
