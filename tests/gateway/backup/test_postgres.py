from __future__ import annotations

import pytest

from gateway.backup.postgres import _access


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u:hunter2@host/n?sslmode=require", "postgresql://u@host/n?sslmode=require"),
        ("postgresql://u@host/n?password=hunter2", "postgresql://u@host/n"),
        ("postgresql+asyncpg://u:hunter2@host/n?ssl=require", "postgresql://u@host/n?sslmode=require"),
        ("postgresql://u:hunter2@host/n?ssl=verify_full", "postgresql://u@host/n?sslmode=verify-full"),
        ("postgresql://u:hunter2@host/n?prepared_statement_cache_size=0", "postgresql://u@host/n"),
    ],
)
def test_no_password_stands_on_a_command_line(url: str, address: str) -> None:
    """Wherever a URL has it, PostgreSQL's programs get it in their environment, which is nobody else's.

    What only the gateway's own driver reads is put into libpq's words, or left out.
    """
    told, environ = _access(url)
    assert (told, environ["PGPASSWORD"]) == (address, "hunter2")
