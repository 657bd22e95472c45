"""What PostgreSQL does for the control process lets calls go first."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway import behind_calls
from gateway.behind_calls import put_behind_calls
from gateway.leashing import BEHIND_CALLS
from metering.ledger import make_engine


async def _niceness(url: str) -> list[str]:
    """Connect twice at once; returns the niceness of the sessions that the server made for it."""
    engine = make_engine(url)
    put_behind_calls(engine)
    try:
        async with engine.connect() as one, engine.connect() as other:
            processes = [
                (await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one()
                for connection in (one, other)
            ]
            assert processes[0] != processes[1]
            return [
                (behind_calls._PROCESSES / str(process) / "autogroup").read_text().split()[-1]
                for process in processes
            ]
    finally:
        await engine.dispose()


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="the cores are not shared out among sessions here"
)
async def test_every_connection_s_session_is_nicer(database_url: str) -> None:
    """PostgreSQL makes a session of each of its processes, so that its own niceness reaches none of them."""
    assert await _niceness(database_url) == [str(BEHIND_CALLS)] * 2


@pytest.mark.parametrize(
    ("program", "niceness"), [("postgres", str(BEHIND_CALLS)), ("sh", "/autogroup-1 nice 0")]
)
def test_a_process_of_somebody_else_is_left_alone(tmp_path: Path, program: str, niceness: str) -> None:
    """A server on another machine names a process id that may belong to something else here."""
    (tmp_path / "comm").write_text(f"{program}\n")
    (tmp_path / "autogroup").write_text("/autogroup-1 nice 0")
    behind_calls._put_behind(tmp_path)
    assert (tmp_path / "autogroup").read_text() == niceness


async def test_a_server_elsewhere_is_used_as_any(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said of processes that are not here."""
    monkeypatch.setattr(behind_calls, "_PROCESSES", tmp_path)
    engine = make_engine(database_url)
    put_behind_calls(engine)
    async with engine.connect() as connection:
        assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1
    await engine.dispose()
