from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from gateway import child
from gateway.child import Child, ChildError, State
from gateway.leash import LOCKED
from gateway.leashing import leashed

DEADLINE_S = 10.0


@dataclass
class Script:
    """A Python program that is ready when it has made its file."""

    place: Path
    source: str
    name: str = "script"
    stop_signal: signal.Signals = signal.SIGTERM
    retire_signal: signal.Signals = signal.SIGTERM
    descriptors: tuple[int, ...] = ()
    prepared: int = 0

    @property
    def log_file(self) -> Path:
        return self.place / "log"

    @property
    def ready_file(self) -> Path:
        return self.place / "ready"

    def prepare(self) -> None:
        self.prepared += 1
        self.ready_file.unlink(missing_ok=True)

    def command(self) -> list[str]:
        head = f"import pathlib, signal, sys, time\nready = pathlib.Path({str(self.ready_file)!r}).touch\n"
        return leashed([sys.executable, "-S", "-c", head + self.source], on_parent_death=self.stop_signal)

    def is_ready(self) -> bool:
        return self.ready_file.exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def children() -> AsyncIterator[list[Child]]:
    """Children to be stopped in the end."""
    made: list[Child] = []
    yield made
    for each in made:
        await each.stop(0.1)


def make(children: list[Child], script: Script, *, start_hung_s: float | None = None) -> Child:
    made = Child(script, os.environ, start_hung_s=start_hung_s)
    children.append(made)
    return made


async def test_a_started_child_is_ready(tmp_path: Path, children: list[Child]) -> None:
    """`start` returns when the program does its work, not before."""
    script = Script(tmp_path, "time.sleep(0.1); ready(); time.sleep(60)")
    one = make(children, script)
    await one.start()
    assert script.is_ready()
    assert psutil.pid_exists(one.pid or 0)


async def test_a_child_that_ends_at_once_is_an_error_with_what_it_said(
    tmp_path: Path, children: list[Child]
) -> None:
    """A person sees the program's own words."""
    with pytest.raises(ChildError, match=r"script ended with status 3 before it was ready.\nno such thing"):
        await make(children, Script(tmp_path, "print('no such thing', flush=True); sys.exit(3)")).start()


async def test_a_child_whose_data_are_locked_is_an_error_that_says_so(
    tmp_path: Path, children: list[Child]
) -> None:
    """The leash's own status has a sentence of its own."""
    with pytest.raises(ChildError, match="in use by another process"):
        await make(children, Script(tmp_path, f"sys.exit({LOCKED})")).start()


async def test_a_killed_child_is_started_again(tmp_path: Path, children: list[Child]) -> None:
    """After kill -9 there is another process within moments, prepared anew."""
    script = Script(tmp_path, "ready(); time.sleep(60)")
    one = make(children, script)
    await one.start()
    first = one.pid
    one.send(signal.SIGKILL)
    await until(lambda: one.pid not in (None, first) and script.is_ready())
    assert one.restarts == 1
    assert script.prepared == 2


async def test_a_child_that_dies_again_and_again_is_started_ever_more_slowly(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait doubles up to its bound, so that a broken program does not fill a machine."""
    monkeypatch.setattr(child, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(child, "BACKOFF_MAX_S", 0.04)
    one = make(children, Script(tmp_path, "ready(); time.sleep(0.05)"))
    with capture_logs() as lines:
        await one.start()
        await until(lambda: one.restarts >= 5)
    waits = [line["delay_s"] for line in lines if line["event"] == "process died and is started again"]
    assert waits[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]


async def test_a_child_that_is_late_when_started_again_is_ready_in_the_end(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes longer than the deadline is told of, and is at work once it is up."""
    again = tmp_path / "again"
    source = f"again = pathlib.Path({str(again)!r}); time.sleep(again.exists()); again.touch(); ready()"
    one = make(children, Script(tmp_path, f"{source}; time.sleep(60)"))
    await one.start()
    monkeypatch.setattr(child, "READY_DEADLINE_S", 0.1)
    with capture_logs() as lines:
        one.kill()
        await until(lambda: one.restarts == 1 and one.state is State.READY)
    assert "a process is not ready" in {line["event"] for line in lines}


STOP_ITSELF = "import os; os.kill(os.getpid(), signal.SIGSTOP)"
HANGS = "a process hangs before it is ready and is killed"


@dataclass
class Hanging(Script):
    """One that stops itself in some of its lives before it is ready."""

    lives: range = range(0)

    def command(self) -> list[str]:
        self.source = STOP_ITSELF if self.prepared in self.lives else "ready(); time.sleep(60)"
        return super().command()


@pytest.mark.parametrize("hangs", [1, 3])
async def test_a_child_that_hangs_before_it_is_ready_is_killed_and_started_again(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch, hangs: int
) -> None:
    """Each try is given twice the time of the one before, so a slow one comes up too; being ready ends it."""
    monkeypatch.setattr(child, "BACKOFF_MAX_S", 0.01)
    script = Hanging(tmp_path, "")
    one = make(children, script, start_hung_s=0.05)
    await one.start()
    for _ in range(2):
        before = one.restarts
        script.lives = range(script.prepared + 1, script.prepared + 1 + hangs)
        with capture_logs() as lines:
            one.kill()
            await until(lambda before=before: one.restarts > before + hangs and one.state is State.READY)
        told = [line for line in lines if line["event"] == HANGS]
        assert len(told) == one.restarts - before - 1 >= hangs
        assert [line["after_s"] for line in told] == [0.05 * 2**number for number in range(len(told))]
        assert {line["process"] for line in told} == {script.name}
        assert not any(psutil.pid_exists(line["pid"]) for line in told)


async def test_a_child_that_hangs_in_its_first_start_is_ended_when_it_is_tried_again(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be waited for in vain."""
    monkeypatch.setattr(child, "READY_DEADLINE_S", 0.1)
    script = Script(tmp_path, STOP_ITSELF)
    one = make(children, script)
    with pytest.raises(ChildError, match="is not ready after"):
        await one.start()
    script.source = "ready(); time.sleep(60)"
    one.keep_trying()
    await until(lambda: one.restarts == 1 and one.state is State.READY)


async def test_a_replacement_that_hangs_is_killed_and_leaves_the_old_one_at_work(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling restart is broken off by it."""
    script = Script(tmp_path, "ready(); time.sleep(60)")
    one = make(children, script)
    others = family()
    await one.start()
    monkeypatch.setattr(child, "READY_DEADLINE_S", 0.1)
    old, script.source = one.pid, STOP_ITSELF
    with pytest.raises(ChildError, match="is not ready after"):
        await one.replace(DEADLINE_S)
    assert (one.pid, one.state) == (old, State.READY)
    assert [each.pid for each in family() - others] == [old]


async def test_a_child_is_not_late_because_its_watcher_was_stopped(
    tmp_path: Path, children: list[Child]
) -> None:
    """What went by while nobody looked does not count."""
    script = Script(tmp_path, "ready(); time.sleep(60)")
    one = make(children, script, start_hung_s=0.2)
    await one.start()
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks <= 3:
            time.sleep(0.3)
        return looks > 3

    script.is_ready = look  # type: ignore[method-assign]
    with capture_logs() as lines:
        one.kill()
        await until(lambda: one.restarts > 0 and one.state is State.READY)
    assert one.restarts == 1
    assert HANGS not in {line["event"] for line in lines}


async def test_a_stopped_child_is_not_started_again(tmp_path: Path, children: list[Child]) -> None:
    """`stop` asks with the program's own signal and waits for its end."""
    source = "signal.signal(2, lambda *_: (print('bye', flush=True), sys.exit(0)))\nready(); time.sleep(60)"
    script = Script(tmp_path, source, stop_signal=signal.SIGINT)
    one = make(children, script)
    await one.start()
    await one.stop(DEADLINE_S)
    assert one.pid is None
    assert script.log_file.read_text() == "bye\n"
    assert one.restarts == 0


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path, children: list[Child]) -> None:
    """A process that ignores the request is gone after the grace."""
    one = make(children, Script(tmp_path, "signal.signal(15, signal.SIG_IGN); ready(); time.sleep(60)"))
    await one.start()
    pid = one.pid
    await one.stop(0.05)
    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_stopping_between_a_death_and_the_next_start_starts_nothing(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that waits for its next life stays dead."""
    monkeypatch.setattr(child, "BACKOFF_FIRST_S", 60.0)
    monkeypatch.setattr(child, "BACKOFF_MAX_S", 60.0)
    script = Script(tmp_path, "ready(); time.sleep(60)")
    one = make(children, script)
    await one.start()
    one.send(signal.SIGKILL)
    await until(lambda: one.pid is None)
    await one.stop(DEADLINE_S)
    assert one.pid is None
    assert script.prepared == 1


async def test_a_replaced_child_ends_only_when_the_new_one_is_ready(
    tmp_path: Path, children: list[Child]
) -> None:
    """The old process lives until then, is asked by its own signal, and no death is counted."""
    asked = tmp_path / "asked"
    source = f"signal.signal(10, lambda *_: (pathlib.Path({str(asked)!r}).touch(), sys.exit(0)))\n"
    script = Script(tmp_path, source + "ready(); time.sleep(60)", retire_signal=signal.SIGUSR1)
    one = make(children, script)
    await one.start()
    old = one.pid
    # The new one ends before it is ready if the old one was asked too early.
    script.source = f"time.sleep(0.2); sys.exit(1) if pathlib.Path({str(asked)!r}).exists() else 0\n" + source
    script.source += "ready(); time.sleep(60)"
    await one.replace(DEADLINE_S)
    assert asked.exists()
    assert one.pid not in (None, old)
    assert old is not None
    assert not psutil.pid_exists(old)
    assert (one.state, one.restarts) == (State.READY, 0)


async def test_a_replacement_that_does_not_come_up_leaves_the_old_one_at_work(
    tmp_path: Path, children: list[Child]
) -> None:
    """The error says what it said, and the old process is still watched."""
    script = Script(tmp_path, "ready(); time.sleep(60)")
    one = make(children, script)
    await one.start()
    old = one.pid
    good, script.source = script.source, "print('broken version', flush=True); sys.exit(3)"
    with pytest.raises(ChildError, match="broken version"):
        await one.replace(DEADLINE_S)
    assert one.pid == old
    script.source = good
    one.send(signal.SIGKILL)
    await until(lambda: one.pid not in (None, old) and one.state is State.READY)
    assert one.restarts == 1


async def test_stopping_in_the_middle_of_a_replacement_leaves_nothing(
    tmp_path: Path, children: list[Child]
) -> None:
    """Neither the old process nor the one that was not ready yet goes on."""
    script = Script(tmp_path, "ready(); time.sleep(60)")
    one = make(children, script)
    others = family()  # stores that other tests of this process use
    await one.start()
    old = one.pid
    script.source = "time.sleep(60)"
    replacing = asyncio.create_task(one.replace(DEADLINE_S))
    await until(lambda: script.prepared == 2 and len(family() - others) == 2)
    await one.stop(DEADLINE_S)
    with pytest.raises(ChildError, match="stopped"):
        await replacing
    assert old is not None
    assert family() <= others


def family() -> set[psutil.Process]:
    """Return the processes that this one started and that live."""
    return {each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE}
