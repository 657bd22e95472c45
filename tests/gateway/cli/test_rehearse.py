from __future__ import annotations

import pytest

from gateway.cli.main import run


def rehearsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["rehearse", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_rehearsal_by_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """The command tells customers and checks, the same bytes each time, and exits with 0 when all holds."""
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", postgres_url)
    arguments = ("--from", "2026-01", "--to", "2026-03", "--customers", "3", "--seed", "5")
    code, out, _ = rehearsed(capsys, *arguments)
    assert code == 0
    assert "3 customers from 2026-01 to 2026-03 (excluded), Europe/Moscow, seed 5" in out
    assert "customer 00003" in out
    assert "holds: invoices - credit notes - payments = balances" in out
    assert "FAILS" not in out
    assert rehearsed(capsys, *arguments)[:2] == (0, out)


def test_a_rehearsal_without_a_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With embedded stores nothing needs to run: a server of its own comes and goes."""
    monkeypatch.delenv("TALLYGATE_DATABASE_URL", raising=False)
    code, out, err = rehearsed(capsys, "--from", "2026-01", "--to", "2026-02", "--customers", "1")
    assert code == 0, err
    assert "customer 00001" in out


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2026-13", "2027-01", "month must be in"),
        ("2026-01-01", "2027-01", "is not a month"),
        ("2026-02", "2026-02", "does not come after"),
        ("0001-01", "0001-02", "is not a period"),
    ],
)
def test_months_that_are_none_are_refused(
    capsys: pytest.CaptureFixture[str], first: str, last: str, said: str
) -> None:
    """What is typed wrong is said with a right form, and nothing is started."""
    code, _, err = rehearsed(capsys, "--from", first, "--to", last)
    assert code == 2
    assert said in err


def test_a_server_that_is_away_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that cannot be reached is one sentence and exit code 1."""
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/none")
    code, _, err = rehearsed(capsys, "--from", "2026-01", "--to", "2026-02")
    assert code == 1
    assert "cannot be made or used" in err
