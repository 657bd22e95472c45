"""The files for systemd, containers and Prometheus name what exists."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
from typer.main import get_command

from gateway.cli.main import app, run
from gateway.config import example_path, load
from gateway.control.condition import Trouble
from tests.serving import change, run_cli, write_config

DEPLOY = Path(__file__).parents[1] / "deploy"
MANUAL = (DEPLOY.parent / "docs" / "operations.md").read_text()
ALERTS = (DEPLOY / "alerts.yaml").read_text()


def test_every_alert_has_a_row_in_the_manual() -> None:
    """Who is called at night finds what customers notice and what to do; every row's metric is watched."""
    rows = re.findall(r'annotations: \{ manual: "(.+)" \}', ALERTS)
    assert len(rows) == len(re.findall(r"- alert: ", ALERTS))
    told = set(re.findall(r"^\| ([A-Za-z ]+) \| (?:`|`/)", MANUAL, re.MULTILINE))
    assert set(rows) <= told


def test_alerts_see_the_first_of_what_they_count() -> None:
    """A rate by label goes by series that are there from zero on, and over more than one scrape a minute."""
    chosen = re.findall(r"(?:rate|increase)\((\w+)\{.*?\}\[(\d+)m\]", ALERTS)
    assert chosen
    assert {name for name, _ in chosen} == {"tallygate_failed_calls_total", "tallygate_open_calls_total"}
    assert min(int(minutes) for _, minutes in chosen) >= 5


def test_every_reason_of_readiness_is_in_the_manual() -> None:
    """A reason that nobody explains helps nobody."""
    assert set(re.findall(r"^\| `(\w+)` \| .* \| [a-zA-Z ]+ \|$", MANUAL, re.MULTILINE)) >= set(Trouble)


def test_the_health_check_of_the_container_asks_the_default_path() -> None:
    """The path and the port are those of the configuration without a word about them."""
    server = load(example_path(), {"TALLYGATE_DATA_DIR": "unused"}, keep_pepper=False).server
    file = (DEPLOY / "Containerfile").read_text()
    assert f"http://127.0.0.1:{server.proxy_port}{server.health_path}" in file


def test_the_commands_that_are_started_exist() -> None:
    """Unit and container start `serve`, and the unit's hints name commands that there are."""
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    unit = (DEPLOY / "tallygate.service").read_text()
    used = set(re.findall(r"--config /etc/tallygate/config.toml (\w+)", unit))
    assert used == {"serve", "restart"}
    assert used <= commands
    assert '"serve"]' in (DEPLOY / "Containerfile").read_text()


def test_the_image_is_built_from_enough_of_the_checkout(tmp_path: Path) -> None:
    """What `.dockerignore` lets through makes the same wheel, and the file's commands find what they name."""
    root = DEPLOY.parent
    let_through = re.findall(r"(?m)^!(.+)$", (root / ".dockerignore").read_text())
    for path in (path for pattern in let_through for path in root.glob(pattern)):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    contents = [_names_in_wheel(place, tmp_path) for place in (root, tmp_path)]
    assert contents[0] == contents[1]
    file = (DEPLOY / "Containerfile").read_text()
    for target in re.findall(r"RUN make (\w+)", file):
        done = subprocess.run(["make", "--dry-run", target], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).is_file() for name in re.findall(r"requirements/\w+\.txt", file))


def _names_in_wheel(root: Path, folder: Path) -> list[str]:
    [built] = WheelBuilder(str(root)).build(directory=str(folder / "built"), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        return sorted(name for name in wheel.namelist() if "__pycache__" not in name)


def test_the_manager_waits_longer_than_a_stop_takes() -> None:
    """A service manager that kills earlier would break off calls."""
    server = load(example_path(), {"TALLYGATE_DATA_DIR": "unused"}, keep_pepper=False).server
    (patience,) = re.findall(r"TimeoutStopSec=(\d+)", (DEPLOY / "tallygate.service").read_text())
    assert int(patience) > server.drain_s + server.leave_s + 5 + 10 + 30


def test_the_manager_does_not_start_a_wrong_configuration_again(tmp_path: Path) -> None:
    """`serve` tells it from every other failure by its exit code, which the unit names."""
    unit = (DEPLOY / "tallygate.service").read_text()
    (kept_down,) = re.findall(r"(?m)^RestartPreventExitStatus=(\d+)$", unit)
    wrong = tmp_path / "config.toml"
    wrong.write_text("[server]\nworkers = 0\n")
    assert run(["--config", str(wrong), "serve"]) == int(kept_down)
    assert run(["--config", str(wrong), "serv"]) == int(kept_down)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        change(config := write_config(tmp_path), proxy_listen=f'"127.0.0.1:{taken.getsockname()[1]}"')
        assert run_cli(config, "serve").returncode not in (0, int(kept_down))
