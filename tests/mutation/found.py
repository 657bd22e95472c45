"""What came of the mutants of one part."""

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    """How many mutants there are, how many a test failed on, and how many a test never ended with."""

    mutants: int
    failed: int
    timed_out: int

    @property
    def noticed(self) -> int:
        """Both kinds: a test that does not end is as good as one that fails."""
        return self.failed + self.timed_out

    @property
    def score(self) -> float:
        """The noticed ones in percent; none of none is nothing."""
        return 100 * self.noticed / self.mutants if self.mutants else 0.0
