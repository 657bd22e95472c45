"""When each job last succeeded, whoever started it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

JOBS = ("rollup", "project", "replay", "carry", "clean", "notices", "billing", "reminders")


class Successes:
    """Keeps the last success of each job, as a figure and for its age."""

    def __init__(
        self, clock: Callable[[], float], uptime: Callable[[], float], registry: CollectorRegistry
    ) -> None:
        self._clock = clock
        self._uptime = uptime
        self._began = uptime()
        self._last: dict[str, float] = {}  # by `uptime`: an age is no matter of what time it is
        self._at = Gauge(
            "tallygate_job_success_timestamp_seconds",
            "When a job last succeeded; 0 before it first did.",
            ["job"],
            registry=registry,
        )
        for job in JOBS:
            self._at.labels(job)

    def note(self, job: str) -> None:
        """Take down that a job has just succeeded."""
        self._last[job] = self._uptime()
        self._at.labels(job).set(self._clock())

    def age_s(self, job: str) -> float:
        """Return the seconds since a job last succeeded, or since the start."""
        return self._uptime() - self._last.get(job, self._began)
