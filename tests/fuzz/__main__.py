"""Fuzz what reads bytes from outside: `python -m tests.fuzz --minutes 30`, or one input again.

Guided by coverage with atheris, where it is installed. What breaks a target is kept below build/fuzz, and the
command that shows it again is printed; put the input into tests/fuzz/found once it is mended.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PLACE = Path("build") / "fuzz"
GUIDED = importlib.util.find_spec("atheris") is not None
HANG_S = 5.0  # of the processor's time for one input; the slowest take a few hundredths of a second
ENDLESS_S = 300  # by the clock, which a busy machine may hold up
MEMORY_MB = 2_048


def main() -> int:
    """Run what the arguments say; returns 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", help="only this one")
    parser.add_argument("input", nargs="?", type=Path, help="a file with an input to be checked again")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all targets together")
    parser.add_argument("--run-s", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_s is not None:
        _run(given.target, given.run_s)
        return 0
    from tests.fuzz.targets import TARGETS

    if given.target is not None and given.target not in TARGETS:
        parser.error(f"there is no target {given.target!r} (targets: {', '.join(TARGETS)})")
    if given.input is not None:
        TARGETS[given.target].check(given.input.read_bytes())
        print(f"{given.target}: {given.input} breaks nothing")
        return 0
    names = [given.target] if given.target is not None else list(TARGETS)
    if not GUIDED:
        print("atheris is not installed here: inputs are mutated blindly, not guided by coverage", flush=True)
    found = sum(_fuzz(name, given.minutes * 60 / len(names)) for name in names)
    print(f"{len(names)} targets, {given.minutes:g} minutes, {found} found")
    return 1 if found else 0


def _fuzz(name: str, seconds: float) -> int:
    """Fuzz one target in a process of its own; returns how many inputs break it."""
    crashes, log = PLACE / name / "crashes", PLACE / name / "log"
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    command = [sys.executable, "-m", "tests.fuzz", name, "--run-s", str(seconds)]
    with log.open("wb") as out:
        status = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    told = log.read_text(encoding="utf-8", errors="replace")
    found = sorted(set(crashes.iterdir()) - before)
    runs = re.findall(r"(?:stat::number_of_executed_units: |Done )(\d+)|^#(\d+)", told, re.MULTILINE)
    count = next((number for pair in reversed(runs) for number in pair if number), "?")
    print(f"{name:<12} {count:>10} inputs in {seconds:.0f} s: {len(found)} found", flush=True)
    if status != 0:
        print(told[-3_000:], flush=True)
    for path in found:
        print(f"  again: {sys.executable} -m tests.fuzz {name} {path}", flush=True)
    return max(len(found), int(status != 0))


def _check(check: Callable[[bytes], None], data: bytes) -> None:
    begun = time.process_time()
    check(data)
    took = time.process_time() - begun
    assert took < HANG_S, f"took {took:.1f} s of the processor's time"


def _run(name: str, seconds: float) -> None:
    if GUIDED:
        import atheris

        # What is imported from here on tells which of its branches an input takes.
        with atheris.instrument_imports(include=["gateway", "metering", "policies"]):
            from tests.fuzz.targets import TARGETS
        target = TARGETS[name]
        corpus = PLACE / name / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.inputs()):
            (corpus / f"seed-{number}").write_bytes(seed)
        atheris.Setup(
            [
                f"fuzz-{name}",
                str(corpus),
                f"-max_total_time={max(1, round(seconds))}",
                f"-timeout={ENDLESS_S}",
                f"-report_slow_units={ENDLESS_S}",
                f"-rss_limit_mb={MEMORY_MB}",
                f"-artifact_prefix={PLACE / name / 'crashes'}{os.sep}",
                "-max_len=4096",
                "-print_final_stats=1",
            ],
            lambda data: _check(target.check, data),
        )
        atheris.Fuzz()
        return
    _run_blindly(name, seconds)


def _run_blindly(name: str, seconds: float) -> None:
    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import TARGETS

    seed = time.time_ns()
    print(f"seed {seed}", flush=True)
    chance, target, inputs = random.Random(seed), TARGETS[name], TARGETS[name].inputs()
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(chance, inputs)
        count += 1
        try:
            _check(target.check, data)
        except BaseException:
            (PLACE / name / "crashes" / f"crash-{seed}-{count}").write_bytes(data)
            raise
    print(f"Done {count} runs")


if __name__ == "__main__":
    sys.exit(main())
