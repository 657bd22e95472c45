"""What the program tells of itself: JSON lines on the standard error, and the figures of all workers.

No key, token, password or parameter may reach a log. Code does not log them; the filter here is the second
line, which catches what an exception's text or a library's message carries.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor

from gateway.passwords import HIDDEN, without_passwords

SNAPSHOT_MAX_BYTES = 4 << 20
SNAPSHOT_DEADLINE_S = 2.0  # a worker that is busier than this misses one scrape

_SECRET_FIELDS = re.compile(
    r"authorization|cookie|credential|instance_?key|^key$|api_?key|password|pepper|secret|signature|^token$",
    re.IGNORECASE,
)
_SECRETS = (
    # Issued keys and control tokens, whole or cut off: 12 characters tell enough to guess nothing.
    (re.compile(r"\b(tgc?_)[0-9a-z]{8,}"), rf"\1{HIDDEN}"),
    (
        re.compile(r"(?i)((?:instanceKey|signature|token|password|secret|api_?key)=)[^&\s\"']+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(Bearer|Basic)\s+[^\s\"',]+"), rf"\1 {HIDDEN}"),
)

log = structlog.get_logger("gateway.telemetry")


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Write logs from `level` on as JSON lines, those of the standard library's loggers included.

    `stream` is the standard error unless given. May be called again, for another level.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its lines hold request targets; the control API writes an access log of its own.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def hide_secrets(_: object, __: str, event: EventDict) -> EventDict:
    """Replace in an event the values of telling fields, and what looks like a credential in any text."""
    return {name: _hidden(name, value) for name, value in event.items()}


def causes_of(error: BaseException) -> str:
    """Name an error and what is at its bottom, without their texts: those may hold what a client sent."""
    bottom: BaseException = error
    while (below := getattr(bottom, "orig", None) or bottom.__cause__) is not None:
        bottom = below
    names = dict.fromkeys((type(error).__name__, type(bottom).__name__))
    return " < ".join(names)


def _hidden(name: str, value: Any) -> Any:
    if value is not None and _SECRET_FIELDS.search(name):
        return HIDDEN
    if isinstance(value, str):
        value = without_passwords(value)
        for pattern, replacement in _SECRETS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {inner: _hidden(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_hidden("", item) for item in value]
    if isinstance(value, BaseException | Path | bytes):
        return _hidden("", str(value))
    return value


class WorkerMetricsCollector(Collector):
    """The figures of every worker with a `worker` label, for a Prometheus registry.

    `refresh` asks the workers, `collect` yields what they last said; a worker that does not answer is left
    out and shows as `tallygate_worker_up` 0.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._snapshots: dict[str, dict[str, Any] | None] = {}

    async def refresh(self) -> None:
        """Ask all workers at once; takes at most `SNAPSHOT_DEADLINE_S`."""
        sockets = await asyncio.to_thread(lambda: sorted(self.run_dir.glob("worker-*.sock")))
        names = [socket.stem.removeprefix("worker-") for socket in sockets]
        self._snapshots = dict(zip(names, await asyncio.gather(*map(_ask, sockets)), strict=True))

    def silent(self) -> list[str]:
        """Return the workers that did not answer the last `refresh`."""
        return [worker for worker, snapshot in self._snapshots.items() if snapshot is None]

    def lacking(self, gauge: str) -> list[str]:
        """Return the workers whose gauge, which has no labels, was 0 at the last `refresh`."""
        return [
            worker
            for worker, snapshot in self._snapshots.items()
            if snapshot is not None
            and any(not value for _, value in snapshot.get("gauges", {}).get(gauge, ()))
        ]

    def collect(self) -> Iterator[Metric]:
        """Yield the families of the last `refresh`."""
        up = GaugeMetricFamily("tallygate_worker_up", "Whether the worker answered.", labels=["worker"])
        families: dict[str, Metric] = {}
        for worker, snapshot in self._snapshots.items():
            up.add_metric([worker], 0 if snapshot is None else 1)
            if snapshot is not None:
                _add(families, worker, snapshot)
        yield up
        yield from families.values()


async def _ask(socket: Path) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(SNAPSHOT_DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(socket, limit=SNAPSHOT_MAX_BYTES)
            try:
                text = await reader.read(SNAPSHOT_MAX_BYTES)
                while more := await reader.read(SNAPSHOT_MAX_BYTES):
                    text += more
                    if len(text) > SNAPSHOT_MAX_BYTES:
                        raise ValueError("the snapshot is too long")
            finally:
                writer.close()
            snapshot = json.loads(text)
            if not isinstance(snapshot, dict):
                raise ValueError("the snapshot is no object")
            return snapshot
    except (OSError, TimeoutError, ValueError) as error:
        log.warning("a worker's figures cannot be read", socket=socket.name, error=str(error))
        return None


def _add(families: dict[str, Metric], worker: str, snapshot: dict[str, Any]) -> None:
    """Add one worker's series to the families by name; a family has the labels of its first series."""
    texts = snapshot.get("help", {})
    for kind, family in (("counters", CounterMetricFamily), ("gauges", GaugeMetricFamily)):
        for name, series in snapshot.get(kind, {}).items():
            for labels, value in series:
                if name not in families:
                    families[name] = family(name, texts.get(name, name), labels=["worker", *labels])
                families[name].add_metric([worker, *labels.values()], value)  # type: ignore[attr-defined]
    for name, histogram in snapshot.get("histograms", {}).items():
        for labels, counts, total in histogram["series"]:
            if name not in families:
                families[name] = HistogramMetricFamily(
                    name, texts.get(name, name), labels=["worker", *labels]
                )
            below, buckets = 0, []
            for bound, count in zip([*histogram["bounds"], "+Inf"], counts, strict=True):
                below += count
                buckets.append((str(bound), below))
            families[name].add_metric([worker, *labels.values()], buckets, total)  # type: ignore[attr-defined]
