"""What measurements start: that nothing of it stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil

from tests.serving import wait_until

KEEPER = """
import os, sys, time
from pathlib import Path
from benchmarks.machine import Process
child = Process("sleeper", ["sleep", "1000"], frozenset({min(os.sched_getaffinity(0))}), Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(1000)
"""


def test_what_a_killed_measurement_has_started_ends(tmp_path: object) -> None:
    """A measurement that is killed cannot stop its servers; the kernel does."""
    command = [sys.executable, "-c", KEEPER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as measurement:
        assert measurement.stdout is not None
        child = psutil.Process(int(measurement.stdout.readline()))
        wait_until(lambda: child.name() == "sleep")  # it is bound to its parent before that
        measurement.send_signal(signal.SIGKILL)
        child.wait(timeout=20)
