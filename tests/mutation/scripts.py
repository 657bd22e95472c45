"""Mutants of the Lua scripts, each tried in a process of its own by the tests of its script.

A mutant takes the script's place in the memory of its process only; no file is changed. What was noticed
stands in a file, so that a second run tries only what was not.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from gateway.leashing import end_orphan
from metering import scripts
from metering.scripts import Script
from tests import servers
from tests.mutation.found import Found
from tests.mutation.lua import Mutant, mutants
from tests.mutation.patience import SECONDS, TIMED_OUT

KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"
_VERDICTS = {0: SURVIVED, 1: KILLED, TIMED_OUT: TIMEOUT}
_OPTIONS = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]


class _Trial(NamedTuple):
    """A mutant with what it takes the place of and what may notice it."""

    script: Script
    mutant: Mutant
    tests: list[str]

    @property
    def name(self) -> str:
        return f"{self.script.name}.lua:{self.mutant.what}"

    @property
    def digest(self) -> str:
        """What is known of it holds as long as the script is the same."""
        return f"{_sha(self.script.text)[:8]} {self.name}"


def run(tests: dict[str, list[str]], place: Path, at_once: int, patience_s: int) -> Found:
    """Try all mutants of the scripts whose tests are given by their name."""
    place.mkdir(parents=True, exist_ok=True)
    notes = place / "found.json"
    found: dict[str, str] = json.loads(notes.read_text()) if notes.exists() else {}
    chosen: dict[Script, list[str]] = {getattr(scripts, name.upper()): tests[name] for name in tests}
    trials = list(_trials(chosen))
    waiting = [each for each in trials if found.get(each.digest) != KILLED]
    print(f"{len(trials)} mutants of scripts, {len(waiting)} of them to be tried", flush=True)
    os.environ[SECONDS] = str(patience_s)
    paths = sorted({path for each in waiting for path in each.tests})
    if paths and pytest.main(["--collect-only", *_OPTIONS, "-qq", *paths]) != 0:  # what is imported is shared
        sys.exit("The tests of the scripts cannot be collected.")
    with tempfile.TemporaryDirectory(prefix="lua-") as room:
        unchanged = [_Trial(each, Mutant("unchanged", each.text.decode()), chosen[each]) for each in chosen]
        for trial, verdict, last_words in _tried(unchanged, Path(room), at_once):
            if verdict != SURVIVED:
                sys.exit(f"{last_words}\nThe tests of {trial.script.name}.lua fail without any change.")
        for trial, verdict, _ in _tried(waiting, Path(room), at_once):
            found[trial.digest] = verdict
            notes.write_text(json.dumps(found, indent=0))
            if verdict != KILLED:
                print(f"{verdict} {trial.name}", flush=True)
    verdicts = [found[each.digest] for each in trials]
    return Found(len(verdicts), verdicts.count(KILLED), verdicts.count(TIMEOUT))


def _trials(tests: dict[Script, list[str]]) -> Iterator[_Trial]:
    """Yield the mutants that Redis takes for a script."""
    with tempfile.TemporaryDirectory() as directory, servers.valkey(Path(directory)) as url:
        redis = Redis.from_url(url)
        for script, paths in tests.items():
            for mutant in mutants(script.text.decode()):
                try:
                    redis.script_load(mutant.text)
                except ResponseError:
                    continue
                yield _Trial(script, mutant, paths)
        redis.close()


def _tried(trials: list[_Trial], room: Path, at_once: int) -> Iterator[tuple[_Trial, str, str]]:
    """Yield each trial with its verdict and what its tests said; so many are under way at once.

    A test that does not end is begun once more: it might have been something else that held it up.
    """
    running: dict[int, tuple[_Trial, Path]] = {}
    waiting = trials[::-1]
    held_up: set[str] = set()
    places = itertools.count()
    while waiting or running:
        while waiting and len(running) < at_once:
            trial, place = waiting.pop(), room / str(next(places))
            running[_begin(trial, place)] = trial, place
        child, status = os.wait()
        trial, place = running.pop(child)
        for lock in place.rglob("*.lock"):
            end_orphan(lock, signal.SIGKILL)  # a server in an endless loop hears nothing less
        shutil.rmtree(place, ignore_errors=True)
        verdict = _VERDICTS.get(os.waitstatus_to_exitcode(status))
        if verdict is None:
            raise RuntimeError(f"the tests of {trial.name} could not be run: exit status {status}")
        last_words = _log(place).read_text()
        _log(place).unlink()
        if verdict == TIMEOUT and trial.name not in held_up:
            held_up.add(trial.name)
            waiting.insert(0, trial)
        else:
            yield trial, verdict, last_words


def _begin(trial: _Trial, place: Path) -> int:
    """Run the tests against a mutant in a process of its own; returns its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    with _log(place).open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    text = trial.mutant.text.encode()
    # All modules that use the script hold this one object.
    object.__setattr__(trial.script, "text", text)
    object.__setattr__(trial.script, "sha", _sha(text))
    status = 70
    try:
        status = int(pytest.main([*_OPTIONS, f"--basetemp={place}", *trial.tests]))
    except Exception:  # noqa: BLE001 - tests failed, and then a server with an endless script could not be stopped
        status = 1
    finally:
        os._exit(status)


def _log(place: Path) -> Path:
    return place.with_suffix(".log")


def _sha(text: bytes) -> str:
    return sha1(text).hexdigest()  # noqa: S324 - Redis names scripts so
