"""The figures of a run and how they are told; medians over rounds, ratios within a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.load import Load
from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Turn:
    """What one peer did under one workload in one round.

    `cpu_s` is what the proxy used, `strangers` the share of its core that went to others than it.
    """

    load: Load
    cpu_s: float
    memory_bytes: int
    strangers: float

    @property
    def cpu_s_per_thousand(self) -> float:
        """Return the CPU seconds of the proxy for 1,000 answered calls."""
        return self.cpu_s * 1000 / max(1, self.load.answered)

    @property
    def busy(self) -> float:
        """Return how much of its core the proxy used; well below 1 something else was the bottleneck."""
        return self.cpu_s / self.load.seconds


@dataclass(frozen=True, slots=True)
class Account:
    """The count of a peer against what happened: calls that clients waited for, and calls at the upstream.

    `answered` and `counted_answered` belong to a run in which no call was cut off; `reached` and
    `counted_reached` to all turns. The counted ones are None for a peer that does not count.
    """

    answered: int
    counted_answered: int | None
    reached: int
    counted_reached: int | None

    @property
    def differences(self) -> tuple[int | None, int | None]:
        """Return counted minus answered, and counted minus reached."""
        return (
            None if self.counted_answered is None else self.counted_answered - self.answered,
            None if self.counted_reached is None else self.counted_reached - self.reached,
        )


@dataclass(slots=True)
class Figures:
    """All turns of one workload, by the peers' titles, and the accounts taken afterwards."""

    workload: Workload
    turns: dict[str, list[Turn]]
    accounts: dict[str, Account]

    def ratios(self, one: str, other: str, value: Callable[[Turn], float]) -> list[float]:
        """Return a value of `one` as multiples of that of `other`, a figure per round."""
        pairs = zip(self.turns[one], self.turns[other], strict=True)
        return [value(first) / value(second) for first, second in pairs]

    def as_json(self) -> dict[str, object]:
        """Return everything as plain values."""
        return {
            "workload": asdict(self.workload),
            "turns": {title: [asdict(turn) for turn in turns] for title, turns in self.turns.items()},
            "accounts": {title: asdict(account) for title, account in self.accounts.items()},
        }


_COLUMNS: tuple[tuple[str, Callable[[Turn], float], str], ...] = (
    ("requests/s", lambda turn: turn.load.rate, ",.0f"),
    ("p50 ms", lambda turn: turn.load.p50_ms, ".2f"),
    ("p99 ms", lambda turn: turn.load.p99_ms, ".2f"),
    ("p99.9 ms", lambda turn: turn.load.p999_ms, ".2f"),
    ("CPU s / 1,000", lambda turn: turn.cpu_s_per_thousand, ".4f"),
    ("core used", lambda turn: turn.busy, ".0%"),
    ("by others", lambda turn: turn.strangers, ".0%"),
    ("memory MiB", lambda turn: turn.memory_bytes / 2**20, ".1f"),
    ("failed", lambda turn: turn.load.failed, ",.0f"),
)


def table(figures: Figures) -> str:
    """Write the medians of a workload, a line per peer."""
    head = ["", *(name for name, _, _ in _COLUMNS)]
    rows = [
        [title, *(format(median(value(turn) for turn in turns), form) for _, value, form in _COLUMNS)]
        for title, turns in figures.turns.items()
    ]
    return aligned([head, *rows])


def ratio_lines(figures: Figures, subject: str, goals: dict[str, float]) -> str:
    """Write how many times as fast `subject` is as every other peer: rounds, medians and goal."""
    rows = []
    for other in figures.turns:
        if other == subject:
            continue
        rates = figures.ratios(subject, other, lambda turn: turn.load.rate)
        costs = figures.ratios(subject, other, lambda turn: 1 / turn.cpu_s_per_thousand)
        goal = goals.get(other)
        told = "" if goal is None else f"goal {goal:g}: {'met' if median(rates) >= goal else 'MISSED'}"
        each = [f"{ratio:.2f}" for ratio in rates]
        rows.append([f"{subject} / {other}", *each, f"{median(rates):.2f}", f"{median(costs):.2f}", told])
    if not rows:
        return ""
    rounds = [f"round {number}" for number in range(1, len(rows[0]) - 3)]
    return aligned([["requests/s as a multiple", *rounds, "median", "median per CPU second", ""], *rows])


def account_lines(figures: Figures) -> str:
    """Write the comparison of the counters with what was answered and with what reached the upstream."""
    rows = [["", "answered", "counted", "difference", "reached upstream", "counted", "difference"]]
    for title, account in figures.accounts.items():
        answered, reached = account.differences
        rows.append(
            [
                title,
                f"{account.answered:,}",
                _number(account.counted_answered),
                _number(answered),
                f"{account.reached:,}",
                _number(account.counted_reached),
                _number(reached),
            ]
        )
    return aligned(rows)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Set the first column to the left and all others to the right."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
