from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway import config, welcome
from gateway.config import TOKEN_FILE
from gateway.first_start import Demo, write_secret
from gateway.settings import Settings, Tls


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """The example's settings with a token in the data directory."""
    write_secret(data_dir / TOKEN_FILE, "tgc_text")
    return config.load(None, {config.DATA_DIR: str(data_dir)})


def test_without_the_demo_no_secret_is_printed(settings: Settings) -> None:
    """In production the token's place is named, and its text stays there."""
    text = welcome.text(settings, None)
    assert "tgc_text" not in text
    assert str(settings.stores.data_dir / TOKEN_FILE) in text
    assert "http://127.0.0.1:8080" in text
    assert "http://127.0.0.1:8081/metrics" in text


def test_with_the_demo_everything_to_paste_is_printed(settings: Settings) -> None:
    """The key and the token stand in calls that work as they are."""
    text = welcome.text(settings, Demo("acc_1", "tg_text"))
    lines = [line.strip() for line in text.splitlines()]
    assert sum(line.startswith("curl ") for line in lines) == 3
    assert sum("instanceKey=tg_text" in line for line in lines) == 2
    assert any(line.endswith("/metrics") and "Bearer tgc_text" in line for line in lines)


def test_addresses_are_written_as_this_machine_reaches_them(settings: Settings) -> None:
    """A listener on every address is shown by the loopback, IPv6 in brackets, TLS as https."""
    tls = Tls(Path("a"), Path("b"))
    everywhere = replace(
        settings.server,
        proxy_host="0.0.0.0",  # noqa: S104 - only shown
        control_host="::",
        control_tls=tls,
    )
    text = welcome.text(replace(settings, server=everywhere), None)
    assert "http://127.0.0.1:8080" in text
    assert "https://[::1]:8081" in text
