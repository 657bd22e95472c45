from __future__ import annotations

import pytest

from gateway.backup.postgres import _access


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u:hunter2@host/n?sslmode=require", "postgresql://u@host/n?sslmode=require"),
        ("postgresql://u@host/n?password=hunter2", "postgresql://u@host/n"),
    ],
)
def test_no_password_stands_on_a_command_line(url: str, address: str) -> None:
    """Wherever a URL has it, PostgreSQL's programs get it in their environment, which is nobody else's."""
    told, environ = _access(url)
    assert (told, environ["PGPASSWORD"]) == (address, "hunter2")
