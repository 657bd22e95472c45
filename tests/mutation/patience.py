"""The end of a test that does not come to one, as it is with many mutants of code that waits for an answer.

Only those seconds count in which the process had its turn: one that a busy machine holds up gets a single
tick for all the time it was away, so a test is not given up because others took the processor.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

SECONDS = "TALLYGATE_TEST_SECONDS"  # the variable that asks for this, for each test
TIMED_OUT = 36  # the exit code by which mutmut knows it too


class Patience:
    """A plugin of pytest that ends the process when one test takes too long."""

    def __init__(self, seconds: int) -> None:
        """Give each test, with what it starts and stops, so many seconds."""
        self._seconds = self._left = seconds

    def pytest_sessionstart(self) -> None:
        """Begin to count."""
        signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, 1, 1)

    def pytest_runtest_logstart(self) -> None:
        """Give the next test all its time."""
        self._left = self._seconds

    def pytest_unconfigure(self) -> None:
        """Count no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    @pytest.fixture(scope="session", autouse=True)
    @classmethod
    def _leave_nothing(
        cls, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
    ) -> Iterator[None]:
        """Remove what the session wrote, unless it was said where: the stores of thousands fill a disk."""
        yield
        if pytestconfig.getoption("basetemp") is None:
            shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)

    def _tick(self, *_: object) -> None:
        self._left -= 1
        if self._left <= 0:
            os._exit(TIMED_OUT)  # what it started is on a leash
