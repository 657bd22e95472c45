from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.leash import LOCKED
from gateway.leashing import LEASH, Identity, OrphanError, end_orphan, leashed
from tests.turns import needs_turns, turn_ns

SESSION_GROUP = "/proc/self/autogroup"  # of a process that is in no session yet, it is empty
SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_the_command_takes_the_leashes_place() -> None:
    """The process that was started is the command itself, out of the terminal's group, with its status."""
    shown = "import os, sys; print(os.getpid() == os.getpgid(0) == os.getsid(0), os.getppid()); sys.exit(7)"
    done = run(leashed([sys.executable, "-c", shown], on_parent_death=signal.SIGTERM))
    assert done.stdout == f"True {os.getpid()}\n"
    assert done.returncode == 7


def test_a_command_that_may_wait_lets_others_go_first() -> None:
    """It is nicer by as many steps as were named, up to the most there is; with none it is as its starter."""
    shown = [sys.executable, "-c", "import os; print(os.nice(0))"]
    for steps in (0, 3, 40):
        done = run(leashed(shown, on_parent_death=signal.SIGTERM, nice=steps))
        assert int(done.stdout) == min(19, os.nice(0) + steps)


@pytest.mark.skipif(
    not Path(SESSION_GROUP).exists(), reason="the cores are not shared out among sessions here"
)
@pytest.mark.parametrize(("steps", "niceness"), [(0, 0), (3, min(19, os.nice(0) + 3))])
def test_a_command_that_may_wait_takes_its_session_with_it(steps: int, niceness: int) -> None:
    """Linux shares the cores out among sessions first, so the command's has to be nicer as well.

    A new session begins at 0, however nice the process is that begins it.
    """
    shown = [sys.executable, "-c", f"print(open({SESSION_GROUP!r}).read())"]
    done = run(leashed(shown, on_parent_death=signal.SIGTERM, nice=steps))
    assert done.stdout.split()[-2:] == ["nice", str(niceness)]


@needs_turns
def test_a_command_that_answers_calls_takes_short_turns() -> None:
    """Its turns are of the length that was named, whatever its niceness; others have the usual one."""
    usual = turn_ns(os.getpid())
    for asked, found in ((0, usual), (200_000, 200_000)):
        line = leashed(SLEEP, on_parent_death=signal.SIGTERM, nice=3, turn_ns=asked)
        with subprocess.Popen(line, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            nice = os.getpriority(os.PRIO_PROCESS, child.pid)
            assert (turn_ns(child.pid), nice) == (found, min(19, os.nice(0) + 3))
            child.kill()


def test_a_command_whose_starter_is_gone_is_not_run() -> None:
    """There is no moment in which a dead parent goes unnoticed."""
    command = leashed(["/bin/sh", "-c", "echo ran"], on_parent_death=signal.SIGTERM)
    command[command.index("--parent") + 1] = "1"
    done = run(command)
    assert (done.stdout, done.returncode) == ("", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_the_named_signal_comes_when_the_starter_is_killed() -> None:
    """Each program is ended in its own way, not just killed."""
    # Written past the buffer, which the program may be in the middle of when the signal comes.
    child = "import os, signal, time; signal.signal(2, lambda *_: (os.write(1, b'bye\\n'), os._exit(0)))\n"
    child += "os.write(1, b'up\\n'); time.sleep(60)"
    parent = (
        "import signal, subprocess, sys; from gateway.leashing import leashed\n"
        f"subprocess.run(leashed([sys.executable, '-c', {child!r}], on_parent_death=signal.SIGINT))"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        started.kill()
        assert started.stdout.readline() == "bye\n"


def test_a_held_lock_keeps_the_second_command_from_running(tmp_path: Path) -> None:
    """Two commands with one lock never run together; the first one's end frees it, children included."""
    lock = tmp_path / "lock"
    heir = ["/bin/sh", "-c", f"{sys.executable} -S -c 'import time; time.sleep(60)' & echo up; wait"]
    with subprocess.Popen(
        leashed(heir, on_parent_death=signal.SIGKILL, lock=lock), stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        (child,) = psutil.Process(first.pid).children()
        second = leashed(["/bin/echo", "ran"], on_parent_death=signal.SIGKILL, lock=lock)
        assert run(second).returncode == LOCKED
        first.kill()
        first.wait()
        assert run(second).returncode == LOCKED  # the child still uses what the lock is for
        child.kill()
        psutil.wait_procs([child], timeout=10)
        assert run(second).stdout == "ran\n"


def test_an_orphan_is_ended_by_its_lock(tmp_path: Path) -> None:
    """Whoever holds the lock is asked to end, and the lock is free afterwards."""
    lock = tmp_path / "lock"
    command = leashed(SLEEP, on_parent_death=signal.SIGKILL, lock=lock)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "up\n"
        end_orphan(lock, signal.SIGTERM)
        assert orphan.wait(timeout=10) == -signal.SIGTERM
    end_orphan(lock, signal.SIGTERM)


def test_an_orphan_that_does_not_end_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person learns which process is in the way."""
    monkeypatch.setattr("gateway.leashing.ORPHAN_DEADLINE_S", 0.05)
    lock = tmp_path / "lock"
    command = leashed(
        ["/bin/sh", "-c", "trap '' TERM; echo up; sleep 60"], on_parent_death=signal.SIGKILL, lock=lock
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "up\n"
        with pytest.raises(OrphanError, match=str(orphan.pid)):
            end_orphan(lock, signal.SIGTERM)
        for process in [*psutil.Process(orphan.pid).children(), psutil.Process(orphan.pid)]:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can become another user")
@pytest.mark.parametrize("keep", [0, 1 << 2])
def test_another_user_has_exactly_the_named_capabilities(tmp_path: Path, keep: int) -> None:
    """Nothing of root is left but what was asked for: no group, no other capability."""
    nobody = pwd.getpwnam("nobody")
    user = Identity(nobody.pw_uid, nobody.pw_gid, keep)
    done = run(leashed(["/bin/cat", "/proc/self/status"], on_parent_death=signal.SIGTERM, user=user))
    facts = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert facts["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert facts["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert facts["Groups"].split() in ([], [str(nobody.pw_gid)])
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(facts[name], 16) == keep, name


def test_the_leash_needs_nothing_but_the_standard_library() -> None:
    """It runs without the installation's packages, so that it is there at once."""
    done = run([sys.executable, "-I", "-S", str(LEASH), "--help"])
    assert done.returncode == 0
