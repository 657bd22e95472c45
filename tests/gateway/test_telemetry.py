from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import telemetry
from gateway.passwords import HIDDEN
from gateway.telemetry import WorkerMetricsCollector, causes_of, configure_logging

KEY = "tg_0123456789abcdefghjkmnpqrs0000000"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged, with the loggers set back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_log_line_is_one_json_object_with_level_and_utc_time(written: io.StringIO) -> None:
    """An event becomes one line that says when, how grave, and by whom."""
    structlog.get_logger("gateway.worker").warning("worker slow", index=2, name="Ключ")
    (line,) = lines(written)
    assert line["event"] == "worker slow"
    assert line["level"] == "warning"
    assert line["logger"] == "gateway.worker"
    assert line["index"] == 2
    assert line["timestamp"].endswith("Z")
    assert "Ключ" in written.getvalue()


def test_lines_of_the_standard_librarys_loggers_have_the_same_form(written: io.StringIO) -> None:
    """A library's log is JSON too, with its exception as text."""
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError:
        logging.getLogger("asyncio").exception("task %s failed", "x")
    (line,) = lines(written)
    assert line["event"] == "task x failed"
    assert "ValueError" in line["exception"]
    assert KEY not in written.getvalue()


def test_events_below_the_level_are_not_written(written: io.StringIO) -> None:
    """The level of the configuration holds, and can be changed later."""
    structlog.get_logger("a").debug("quiet")
    configure_logging("error", written)
    structlog.get_logger("a").warning("quiet too")
    assert lines(written) == []


@pytest.mark.parametrize(
    "text",
    [
        f"called with {KEY}",
        f"GET /service-json/GetItem?instanceKey={KEY}&x=1",
        "GET /a?instanceKey=sellers-own-key&x=1",
        "tgc_0123456789abcdefghjkmnpqrs0000000 refused",
        "postgresql://tallygate:sellers-own-key@/tallygate",
        "redis://:with/slash@sellers-own-key@host:6379/0 does not answer",
        "redis+sentinel://host:26379/counts?sentinel_password=sellers-own-key",
        "Authorization: Bearer sellers-own-key",
    ],
)
def test_credentials_in_any_text_are_hidden(written: io.StringIO, text: str) -> None:
    """What looks like a credential is cut out of messages, fields and what they hold."""
    structlog.get_logger("a").info(text, at=text, inner={"deep": [text]}, error=ValueError(text))
    assert len(lines(written)) == 1
    for secret in (KEY[3:], "0123456789abcdef", "sellers-own-key"):
        assert secret not in written.getvalue()


def test_fields_with_telling_names_are_hidden_whatever_they_hold(written: io.StringIO) -> None:
    """A value under a name such as `password` is never written; ids of keys are."""
    headers = {"Authorization": "q"}
    structlog.get_logger("a").info("x", password="p", headers=headers, pepper=b"r", key_id="key_1")
    (line,) = lines(written)
    assert line["password"] == line["pepper"] == line["headers"]["Authorization"] == HIDDEN
    assert line["key_id"] == "key_1"


async def test_an_error_of_the_ledger_is_told_by_its_cause(engine: AsyncEngine) -> None:
    """Who reads the log learns that a disk is full, say, and nothing of what was to be written."""
    with pytest.raises(sa.exc.DBAPIError) as failed:
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT :n / 0"), {"n": 7})
    assert causes_of(failed.value) == "DBAPIError < DivisionByZeroError"
    assert causes_of(TimeoutError("s3cret")) == "TimeoutError"


@pytest.fixture
async def run_dir() -> AsyncIterator[Path]:
    """A directory with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tg-") as place:
        yield Path(place)


def snapshot(calls: int) -> dict[str, Any]:
    return {
        "help": {"tg_calls_total": "Calls."},
        "counters": {"tg_calls_total": [[{"route": "/a", "result": "answered"}, calls]]},
        "gauges": {"tg_open": [[{}, 3]]},
        "histograms": {"tg_seconds": {"bounds": [0.1, 1.0], "series": [[{"route": "/a"}, [1, 2, 4], 9.5]]}},
    }


async def serve(run_dir: Path, index: int, text: bytes) -> asyncio.Server:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, path=run_dir / f"worker-{index}.sock")


async def scrape(collector: WorkerMetricsCollector) -> list[str]:
    await collector.refresh()
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode().splitlines()


async def test_every_workers_figures_carry_its_label(run_dir: Path) -> None:
    """Counters, gauges and histograms of two workers stand side by side."""
    servers = [await serve(run_dir, index, json.dumps(snapshot(10 + index)).encode()) for index in (0, 1)]
    text = await scrape(WorkerMetricsCollector(run_dir))
    assert "# HELP tg_calls_total Calls." in text
    assert 'tg_calls_total{result="answered",route="/a",worker="0"} 10.0' in text
    assert 'tg_calls_total{result="answered",route="/a",worker="1"} 11.0' in text
    assert 'tg_open{worker="1"} 3.0' in text
    assert 'tg_seconds_bucket{le="0.1",route="/a",worker="0"} 1.0' in text
    assert 'tg_seconds_bucket{le="1.0",route="/a",worker="0"} 3.0' in text
    assert 'tg_seconds_bucket{le="+Inf",route="/a",worker="0"} 7.0' in text
    assert 'tg_seconds_sum{route="/a",worker="0"} 9.5' in text
    for server in servers:
        server.close()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
async def test_a_worker_that_answers_nonsense_is_down_beside_the_others(run_dir: Path, text: bytes) -> None:
    """One broken worker does not hide the rest."""
    servers = [await serve(run_dir, 0, text), await serve(run_dir, 1, json.dumps(snapshot(1)).encode())]
    shown = await scrape(WorkerMetricsCollector(run_dir))
    assert 'tallygate_worker_up{worker="0"} 0.0' in shown
    assert 'tallygate_worker_up{worker="1"} 1.0' in shown
    assert 'tg_open{worker="1"} 3.0' in shown
    for server in servers:
        server.close()


async def test_a_dead_worker_and_one_that_is_silent_are_down(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket without a process, or a process without an answer, cost a scrape no more than the deadline."""
    monkeypatch.setattr(telemetry, "SNAPSHOT_DEADLINE_S", 0.05)
    dead = await serve(run_dir, 0, b"")
    dead.close()
    await dead.wait_closed()
    (run_dir / "worker-0.sock").touch()

    answered = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answered.wait()
        writer.close()

    silent = await asyncio.start_unix_server(say_nothing, path=run_dir / "worker-1.sock")
    shown = await scrape(WorkerMetricsCollector(run_dir))
    assert 'tallygate_worker_up{worker="0"} 0.0' in shown
    assert 'tallygate_worker_up{worker="1"} 0.0' in shown
    answered.set()
    silent.close()
