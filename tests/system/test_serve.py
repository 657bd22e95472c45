from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import psutil
import pytest

from gateway.build import BUILD
from tests.serving import READY_LINE, Serving, change, paste, serving, start, wait_until, write_config
from tests.turns import needs_turns, turn_ns


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A program with two workers that the tests of this module share and leave running."""
    with serving(write_config(tmp_path_factory.mktemp("serve"), workers=2)) as running:
        yield running


def test_a_call_goes_through_and_shows_up_in_the_usage(tmp_path: Path) -> None:
    """Started, called and stopped: nothing is left; started again: counts and secrets are the same."""
    config_file = write_config(tmp_path)
    with serving(config_file) as first:
        assert first.search()["ErrorCode"] == "Ok"
        wait_until(lambda: first.units() == 1)
        key, token = first.key, first.token
        family = [*first.family().values()]
        family += [grandchild for child in family for grandchild in child.children(recursive=True)]
        assert first.stop() == 0, first.output
    _, alive = psutil.wait_procs(family, timeout=0)
    assert alive == []
    assert not (tmp_path / "data" / "run").exists()
    assert not list((tmp_path / "data").glob("*.lock"))
    assert "Traceback" not in first.output

    with serving(config_file) as second:
        assert (second.key, second.token) == (key, token)
        assert second.units() == 1
        assert second.search()["ErrorCode"] == "Ok"
        wait_until(lambda: second.units(live=False) == 2)
        assert second.control("GET", "/v1/interruptions")["items"] == []  # the store came back whole


def test_the_secrets_of_the_data_directory_are_closed_to_others(program: Serving) -> None:
    """Token, key, pepper and the database's password are readable for their owner alone."""
    for name in ("control-token", "demo-key", "pepper", "postgres-password"):
        assert (program.data_dir / name).stat().st_mode & 0o777 == 0o600, name


def test_the_printed_calls_work_as_they_are_pasted(program: Serving) -> None:
    """The first screen shows a search in JSON, one in XML, and the figures, each as a line for a shell."""
    lines = [line.strip() for line in program.output.splitlines() if line.strip().startswith("curl ")]
    (json_status, by_json), (xml_status, by_xml), (figures_status, figures) = map(paste, lines)
    assert (json_status, xml_status, figures_status) == (200, 200, 200)
    assert by_json.startswith('{"ErrorCode":"Ok"')
    assert by_xml.startswith("<?xml")
    assert "<ErrorCode>Ok</ErrorCode>" in by_xml
    assert 'tallygate_worker_up{worker="1"} 1.0' in figures


def test_every_process_tells_its_build(program: Serving) -> None:
    """Workers tell it to Prometheus, and they and the control process to the log when they are ready."""
    figures = program.control_text("/metrics")
    for worker in (0, 1):
        labels = f'data_path="{BUILD.data_path}",python="{BUILD.python}",version="{BUILD.version}"'
        assert f'tallygate_build_info{{{labels},worker="{worker}"}} 1.0' in figures
    lines = [json.loads(line) for line in program.output.splitlines() if line.startswith("{")]
    ready = [line for line in lines if line["event"] in {"worker ready", "control ready"}]
    assert len(ready) == 3
    assert {(line["version"], line["python"], line["data_path"]) for line in ready} == {astuple(BUILD)}


@needs_turns
def test_what_a_call_passes_takes_short_turns(program: Serving) -> None:
    """Workers and Redis ask for little at a time, so that what was woken for longer makes way at once."""
    usual = turn_ns(program.process.pid)
    short = {name for name, process in program.family().items() if turn_ns(process.pid) < usual}
    assert short == {"gateway.worker 0", "gateway.worker 1", "valkey-server"}


def test_a_killed_worker_is_replaced_and_the_port_goes_on(program: Serving) -> None:
    """After kill -9 on one worker there are two again, and calls are answered all the while."""
    before = program.workers()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(program.workers()) == 2 and before[0] not in program.workers())
    wait_until(lambda: program.search()["ErrorCode"] == "Ok")
    assert before[1] in program.workers()


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """One that lives and does nothing is killed and started again, and the others are left alone."""
    hurried = "from gateway import pulse, workforce; workforce.HUNG_S, pulse.PULSE_EVERY_S = 2.0, 0.1"
    with serving(write_config(tmp_path, workers=2), first=hurried) as running:
        before, control = running.workers(), running.family()["gateway.control"]
        os.kill(before[0], signal.SIGSTOP)
        wait_until(lambda: len(running.workers()) == 2 and before[0] not in running.workers())
        assert before[1] in running.workers()
        assert running.family()["gateway.control"] == control
        (line,) = [line for line in running.output.splitlines() if "a process hangs and is killed" in line]
        assert json.loads(line)["process"] in ("worker 0", "worker 1")
        for _ in range(8):  # whichever worker takes the connection
            assert running.search()["ErrorCode"] == "Ok"


def test_a_control_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    """It is killed and started again as a worker is, and so is the one that took its place in order."""
    hurried = "from gateway import processes, pulse; processes.CONTROL_HUNG_S, pulse.PULSE_EVERY_S = 2.0, 0.1"
    with serving(write_config(tmp_path), first=hurried) as running:

        def hang(*, starts: int) -> None:
            before = running.family()["gateway.control"]
            before.suspend()
            wait_until(lambda: before not in running.family().values())
            wait_until(lambda: running.output.count("control ready") == starts)
            assert running.control("GET", "/readyz")["status"] in ("ready", "degraded")

        workers = running.workers()
        hang(starts=2)
        assert running.workers() == workers
        assert running.search()["ErrorCode"] == "Ok"
        running.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "rolling restart done" in running.output)
        hang(starts=4)
        killed = [line for line in running.output.splitlines() if "a process hangs and is killed" in line]
        assert [json.loads(line)["process"] for line in killed] == ["control", "control"]


STOPS_ITSELF = """
import signal, sys
from gateway import processes, workforce
from gateway.leashing import leashed
from gateway.programs import Process
processes.CONTROL_START_HUNG_S = workforce.START_HUNG_S = 4.0
start = Process.command
def command(self):
    stop = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"]
    return leashed(stop, on_parent_death=signal.SIGKILL) if self._life == 2 else start(self)
Process.command = command
"""


def test_who_hangs_before_it_is_ready_is_replaced(tmp_path: Path) -> None:
    """A worker and the control process that are started again and get nowhere are killed, and tried again."""
    with serving(write_config(tmp_path), first=STOPS_ITSELF) as running:
        before = running.family()
        for name in ("gateway.worker 0", "gateway.control"):
            before[name].kill()
        for line in ("worker ready", "control ready"):
            wait_until(lambda line=line: running.output.count(line) == 2, 180.0)
        wait_until(lambda: works(running))
        killed = [json.loads(line) for line in running.output.splitlines() if "before it is ready" in line]
        assert {line["process"] for line in killed} == {"worker 0", "control"}


def test_who_is_started_again_waits_for_no_store(tmp_path: Path) -> None:
    """Nobody is late because Redis or PostgreSQL says nothing."""
    with serving(write_config(tmp_path)) as running:
        before = running.family()
        stores = [before[name] for name in ("valkey-server", "postgres")]
        for store in stores:
            store.suspend()
        try:
            for name in ("gateway.worker 0", "gateway.control"):
                before[name].kill()
            for line in ("worker ready", "control ready"):
                wait_until(lambda line=line: running.output.count(line) == 2, 180.0)
        finally:
            for store in stores:
                store.resume()
        wait_until(lambda: works(running))


@pytest.mark.parametrize("name", ["valkey-server", "postgres", "gateway.control", "demo"])
def test_every_other_killed_process_is_replaced_too(program: Serving, name: str) -> None:
    """The stores come back with their data, and so do the control process and the demo."""
    before = program.family()[name]
    units = program.units()
    before.kill()
    wait_until(lambda: program.family().get(name, before) != before)

    def works() -> bool:
        try:
            return program.search()["ErrorCode"] == "Ok" and program.units() > units
        except (AssertionError, OSError, http.client.HTTPException):  # not yet
            return False

    wait_until(works, 30.0)


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(program: Serving) -> None:
    """SIGHUP names every error in the log; workers are the same, and so is what they do."""
    before = program.workers()
    right = program.config_file.read_text()
    change(program.config_file, drain_s='"long"', max_headers="0")
    try:
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration refused, the old one stays" in program.output)
        (line,) = [line for line in program.output.splitlines() if "configuration refused" in line]
        assert "server.drain_s" in line
        assert "server.max_headers" in line
        assert program.workers() == before
        assert program.search()["ErrorCode"] == "Ok"
    finally:
        program.config_file.write_text(right)


def test_a_change_for_the_next_start_is_told(program: Serving) -> None:
    """From an embedded store to another as well, until it is taken back; no restart does half of it."""

    def told() -> int:
        return program.output.count("changes with the next start only")

    def reloaded(*, times: int) -> None:
        before = program.output.count("configuration reloaded")
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: program.output.count("configuration reloaded") == before + times)

    right = program.config_file.read_text()
    before = program.workers()
    change(program.config_file, redis='"redis://127.0.0.1:1/0"')
    try:
        reloaded(times=4)
        assert '"setting": "stores"' in program.output
        program.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "[stores] was changed, which needs a stop and a start" in program.output)
    finally:
        program.config_file.write_text(right)
    count = told()
    reloaded(times=4)
    assert told() == count
    assert program.workers() == before
    assert works(program)


def works(program: Serving) -> bool:
    """Say whether a call is answered and the control API counts it."""
    try:
        return program.search()["ErrorCode"] == "Ok" and program.units() > 0
    except (AssertionError, OSError, http.client.HTTPException):  # not yet
        return False


def test_who_dies_beside_a_wrong_configuration_comes_back_with_the_old_one(program: Serving) -> None:
    """A worker and the control process start again with what runs, and not with what was refused.

    That goes for the files too that the configuration names, and for the pepper.
    """
    right = program.config_file.read_text()
    change(program.config_file, max_headers="0")
    pepper, elsewhere = program.data_dir / "pepper", program.data_dir / "moved"
    pepper.rename(elsewhere)
    try:
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "server.max_headers" in program.output)
        before = program.family()
        names = ("gateway.worker 0", "gateway.worker 1", "gateway.control")
        for name in names:
            before[name].kill()
        wait_until(lambda: all(program.family().get(name, before[name]) != before[name] for name in names))
        wait_until(lambda: works(program))
        kept = program.data_dir / "run" / "kept" / "config.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        assert not pepper.exists()
    finally:
        elsewhere.rename(pepper)
        program.config_file.write_text(right)


def test_who_dies_after_another_store_was_named_counts_where_all_count(
    tmp_path: Path, valkey_url: str
) -> None:
    """A change of [stores] is for the next start of everything, as the log says, and for no single worker."""
    config_file = write_config(tmp_path)
    change(config_file, redis=f'"{valkey_url}"')
    with serving(config_file) as running:
        assert running.search()["ErrorCode"] == "Ok"
        change(config_file, redis='"redis://127.0.0.1:1/0"')
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "this setting changes with the next start only" in running.output)
        wait_until(lambda: running.output.count("configuration reloaded") == 3)
        (worker,) = running.workers()
        psutil.Process(worker).kill()
        wait_until(lambda: running.workers() not in ([], [worker]))
        wait_until(lambda: works(running))


def test_a_right_configuration_is_taken_over_without_a_restart(tmp_path: Path) -> None:
    """SIGHUP changes the plan's limit and the number of workers; calls go on."""
    config_file = write_config(tmp_path)
    with serving(config_file) as running:
        before = running.workers()
        change(config_file, workers="2")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(running.workers()) == 2 and "configuration reloaded" in running.output)
        assert before[0] in running.workers()
        change(config_file, workers="1")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: running.workers() == before)
        assert running.search()["ErrorCode"] == "Ok"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """After kill -9 every process ends by itself, and the next start works at once."""
    config_file = write_config(tmp_path)
    with serving(config_file) as first:
        assert first.search()["ErrorCode"] == "Ok"
        wait_until(lambda: first.units() == 1)
        family = list(first.family().values())
        first.process.kill()
        first.process.wait()
        with serving(config_file) as second:
            assert second.units() == 1
            _, alive = psutil.wait_procs(family, timeout=10)
            assert alive == []


# The disk of the first sync is full; each one is written down.
_SYNCS = """
import errno, os
def fdatasync(descriptor):
    is_first = not os.path.exists({told!r})
    with open({told!r}, "a") as told:
        print(os.readlink(f"/proc/self/fd/{{descriptor}}"), file=told)
    if is_first:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fdatasync = fdatasync
"""


def test_counts_are_brought_to_the_disk_again_and_again(tmp_path: Path) -> None:
    """The embedded store's file is synced every second, and a disk that refuses it once is told of."""
    told = tmp_path / "synced"
    with serving(write_config(tmp_path), first=_SYNCS.format(told=str(told))) as running:
        wait_until(lambda: told.exists() and len(told.read_text().splitlines()) >= 5)
        places = {Path(line).parent for line in told.read_text().splitlines()}
        assert places == {(tmp_path / "data" / "valkey" / "appendonlydir").resolve()}
        assert running.stop() == 0
        assert running.output.count("counts could not be brought to the disk") == 1


def boot(number: int) -> str:
    """Have the supervisor believe that the machine was booted so many times."""
    return f"from gateway import machine_life; machine_life.boot_id = lambda: 'boot {number}'"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_machine_that_died_is_told_from_one_that_was_shut_down(tmp_path: Path) -> None:
    """The counters may lack their last second after a boot, unless the program had ended in order."""
    config_file = write_config(tmp_path)
    with serving(config_file, first=boot(1)) as running:
        assert running.search()["ErrorCode"] == "Ok"
        wait_until(lambda: running.units(live=False) == 1)
        assert running.stop() == 0
    with serving(config_file, first=boot(2)) as running:
        assert running.search()["ErrorCode"] == "Ok"
        wait_until(lambda: running.units(live=False) == 2)
        assert running.control("GET", "/v1/interruptions")["items"] == []
        running.process.kill()
        running.process.wait()
    with serving(config_file, first=boot(3)) as running:
        wait_until(lambda: running.control("GET", "/v1/interruptions")["items"])
        (noticed,) = running.control("GET", "/v1/interruptions")["items"]
        assert (noticed["kind"], noticed["evidence"]) == ("restart", "unknown")
        assert running.units() == 2


def test_a_second_program_on_the_same_data_is_refused(program: Serving) -> None:
    """Two programs never share a data directory; the message says who has it and what to do."""
    second = start(program.config_file)
    assert second.process.wait(timeout=30) == 1
    assert f"process {program.process.pid}" in second.output
    assert "data_dir" in second.output


def test_a_taken_port_is_an_error_that_names_the_setting(program: Serving, tmp_path: Path) -> None:
    """A second program on another's port ends with a sentence, and leaves nothing running."""
    second = start(write_config(tmp_path, proxy_port=program.proxy_port))
    assert second.process.wait(timeout=30) == 1
    assert f"127.0.0.1:{program.proxy_port} cannot be used" in second.output
    assert "proxy_listen" in second.output
    assert "Traceback" not in second.output


def test_a_wrong_configuration_at_the_start_names_every_error(tmp_path: Path) -> None:
    """Nothing is started, and the exit status is 2."""
    config_file = write_config(tmp_path)
    change(config_file, drain_s='"long"', max_headers="0")
    started = start(config_file)
    assert started.process.wait(timeout=30) == 2
    assert "server.drain_s" in started.output
    assert "server.max_headers" in started.output
    assert not started.data_dir.exists()


def test_signals_during_the_start_break_nothing_off(tmp_path: Path) -> None:
    """A reload that comes too early is done when it can be, and a rolling restart is refused."""
    config_file = write_config(tmp_path)
    begun = start(config_file, "--demo")
    try:
        wait_until(lambda: {"gateway.worker 0", "gateway.control"} <= begun.family().keys())
        change(config_file, access='"all"')
        begun.process.send_signal(signal.SIGUSR2)
        begun.process.send_signal(signal.SIGHUP)
        wait_until(lambda: begun.process.poll() is not None or READY_LINE in begun.output, 60.0)
        assert begun.process.poll() is None, begun.output
        wait_until(lambda: begun.output.count("configuration reloaded") == 3)
        assert "The start is not done yet." in begun.output
        assert "died" not in begun.output
    finally:
        begun.stop()


def test_stopping_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C right after the start ends it in order, whatever was under way."""
    config_file = write_config(tmp_path)
    early = start(config_file, "--demo")
    wait_until(lambda: early.family())
    family = list(early.family().values())
    assert early.stop() == 0, early.output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    with serving(config_file) as after:
        assert after.search()["ErrorCode"] == "Ok"


def test_a_call_under_way_ends_well_when_the_program_is_told_to_stop(tmp_path: Path) -> None:
    """SIGTERM takes no new calls and finishes those that it has."""
    with serving(write_config(tmp_path)) as running, ThreadPoolExecutor() as pool:
        path = f"/service-json/SearchItemsFrame?instanceKey={running.key}&framePosition=0&frameSize=2"
        slow = pool.submit(running.request, "GET", path, None, {"X-Demo-Delay-Ms": "1500"})
        wait_until(lambda: in_flight(running) == 1)
        running.process.terminate()
        status, body = slow.result()
        assert (status, json.loads(body)["ErrorCode"]) == (200, "Ok")
        assert running.process.wait(timeout=30) == 0
    with serving(running.config_file) as again:
        assert again.units() == 1


def test_closing_the_terminal_stops_the_program(tmp_path: Path) -> None:
    """The hangup of the terminal it was started in is no request to reload."""
    config_file = write_config(tmp_path)
    main_end, terminal = pty.openpty()
    source = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from gateway.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", source, "--config", str(config_file), "serve", "--demo"]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as program:
        os.close(terminal)
        shown = b""
        while b"Ctrl-C stops everything" not in shown:
            shown += os.read(main_end, 65536)
        family = psutil.Process(program.pid).children(recursive=True)
        os.close(main_end)
        assert program.wait(timeout=30) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def in_flight(running: Serving) -> int:
    figures = running.control_text("/metrics")
    lines = [line for line in figures.splitlines() if line.startswith("tallygate_calls_in_flight{")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)
