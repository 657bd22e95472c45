"""One JSON line a call, written in batches.

The lines have the form of the other logs but are made by hand, since they are many: parameters, bodies and
keys are not in them, only the key's id (contract OT-19).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

import structlog

from gateway.proxy.admission import Stage

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

BATCH_LINES = 256

log = structlog.get_logger("gateway.proxy")


class AccessLogWriter:
    """Collects lines and writes them together."""

    def __init__(self, out: TextIO, clock: Callable[[], float], worker: int) -> None:
        self._out = out
        self._clock = clock
        self._worker = worker
        self._lines: list[str] = []
        self._lost = 0
        self._second = 0
        self._second_text = ""

    def write(self, exchange: Exchange, stage: int) -> None:
        """Note a finished call, which has come as far as `stage`."""
        route, klass, result, seconds, added = exchange.figures()
        key_id, method = exchange.identity()
        request = exchange.request
        self._lines.append(
            f'{{"timestamp":"{self._timestamp()}","level":"info","event":"call","worker":{self._worker},'
            f'"request_id":"{exchange.request_id.decode()}","result":"{result}","status":{exchange.status},'
            f'"stage":"{Stage.NAMES[stage]}","client":"{request.client.decode()}","http_method":"{request.method}",'
            f'"route":{json.dumps(route)},"key":"{key_id}","method":{json.dumps(method)},"class":"{klass}",'
            f'"bytes":{exchange.sent_bytes},"ms":{seconds * 1000:.3f},'
            f'"added_ms":{"null" if added is None else format(added * 1000, ".3f")}}}\n'
        )
        if len(self._lines) >= BATCH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected; where nothing can be written, it is lost and calls go on."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            # Behind what could not be written a line may be torn: the next one begins anew.
            self._out.write("\n" * bool(self._lost) + "".join(lines))
            self._out.flush()
        except OSError as error:
            if not self._lost:
                log.error("calls cannot be logged, and go on", worker=self._worker, error=error.strerror)
            self._lost += len(lines)
            return
        if self._lost:
            log.warning("calls are logged again", worker=self._worker, lost=self._lost)
            self._lost = 0

    def _timestamp(self) -> str:
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"
