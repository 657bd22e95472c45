"""What processes that are started later read: the configuration and its files as they were taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from gateway.kept_config import DIRECTORY, KeptConfig
from gateway.settings import Settings
from tests.certificates import authority
from tests.gateway.test_config import K1, SMALL, tls_table, write

PEPPERS = '[[security.peppers]]\nid = "2026"\nvalue_file = "pepper"\n'


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Where the supervisor has its sockets."""
    place = tmp_path / "run"
    place.mkdir()
    return place


def later(kept: KeptConfig, config_file: Path, settings: Settings) -> Settings:
    """What a process reads that is started now."""
    return load(config_file, kept.environ({}, settings.stores))


def test_who_starts_later_reads_what_was_taken_over(tmp_path: Path, run_dir: Path) -> None:
    """Whatever becomes of the files: what was read and not taken over is for nobody but the supervisor."""
    files = authority(tmp_path).issue("server")
    files.key_file.chmod(0o600)
    (tmp_path / "pepper").write_text("a" * 40)
    config_file = write(tmp_path, SMALL.replace(K1, PEPPERS + tls_table(files)))
    kept = KeptConfig(config_file, run_dir)
    first = kept.read({})
    kept.take()
    (tmp_path / "pepper").write_text("b" * 40)
    second = kept.read({})
    assert second.security.peppers == (("2026", b"b" * 40),)
    for file in (config_file, files.cert_file, files.key_file, tmp_path / "pepper"):
        file.write_text("broken")
    with pytest.raises(ConfigError):
        kept.read({})
    now = later(kept, config_file, first)
    assert (now.server, now.security) == (first.server, first.security)
    files.key_file.unlink()
    kept.take()
    now = later(kept, config_file, second)
    assert (now.server, now.security) == (second.server, second.security)
    assert first.server.proxy_tls is not None
    assert first.server.proxy_tls.key_file.exists(), "who runs may not have read again yet"
    for copy in (run_dir / DIRECTORY).iterdir():
        assert copy.stat().st_mode & 0o777 == 0o600


def test_renewed_files_are_others_and_forgotten_ones_are_removed(tmp_path: Path, run_dir: Path) -> None:
    """An upstream's connections are made anew when its authority changes; copies do not pile up."""
    text = SMALL.replace('"http://', '"https://').replace("[[routes]]", 'ca_file = "ca.pem"\n[[routes]]', 1)
    config_file = write(tmp_path, text)
    kept = KeptConfig(config_file, run_dir)
    seen, count = set(), 0
    for _ in range(4):
        authority(tmp_path)
        seen.add(kept.read({}).upstreams[0])
        kept.take()
        count = len(list((run_dir / DIRECTORY).iterdir()))
    assert len(seen) == 4
    assert count <= 5  # the configuration, pepper, the authority of now and of before


def test_a_generated_pepper_is_kept_too(tmp_path: Path, run_dir: Path) -> None:
    """Without it a process that starts later would make one of its own, under which nobody is known."""
    config_file = write(tmp_path, SMALL)
    kept = KeptConfig(config_file, run_dir)
    settings = kept.read({})
    kept.take()
    pepper = tmp_path / "data" / "pepper"
    pepper.unlink()
    assert later(kept, config_file, settings).security.peppers == settings.security.peppers
    assert not pepper.exists()


def test_errors_name_files_and_no_copies(tmp_path: Path, run_dir: Path) -> None:
    """Who reads the log knows nothing of copies."""
    trusted = authority(tmp_path)
    good, other = trusted.issue("good"), trusted.issue("other")
    good.key_file.write_bytes(other.key_file.read_bytes())
    kept = KeptConfig(write(tmp_path, SMALL.replace(K1, tls_table(good))), run_dir)
    with pytest.raises(ConfigError) as refused:
        kept.read({})
    (error,) = refused.value.errors
    assert f"{good.cert_file} and {good.key_file} are no certificate" in error
    assert DIRECTORY not in error


def test_what_cannot_be_kept_is_refused(tmp_path: Path, run_dir: Path) -> None:
    """On a full disk, say, what runs goes on as it is, and the error says what lacks."""
    (run_dir / DIRECTORY).write_text("in the way")
    kept = KeptConfig(write(tmp_path, SMALL), run_dir)
    with pytest.raises(ConfigError, match=r"no copy can be kept in .*/kept"):
        kept.read({})
