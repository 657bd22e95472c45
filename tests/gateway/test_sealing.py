"""Sealing of signing secrets."""

from __future__ import annotations

import pytest

from gateway.sealing import SealError, seal, unseal

PEPPERS = (("new", b"n" * 32), ("old", b"o" * 32))


def test_a_sealed_secret_can_be_read_back() -> None:
    """What was sealed is read back, is not visible in its sealed form, and looks different every time."""
    sealed = seal("пароль secret", PEPPERS)
    assert unseal(sealed, PEPPERS) == "пароль secret"
    assert "secret" not in sealed
    assert sealed != seal("пароль secret", PEPPERS)


def test_an_older_pepper_still_opens() -> None:
    """After a new pepper was put first, what the old one sealed is still read."""
    assert unseal(seal("x", PEPPERS[1:]), PEPPERS) == "x"


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-4], lambda s: s[:4], lambda s: s.swapcase(), lambda s: s + "\u00e9"]
)
def test_damage_is_noticed(damage) -> None:  # type: ignore[no-untyped-def]
    """A sealed text that was changed is refused."""
    with pytest.raises(SealError):
        unseal(damage(seal("a secret of some length", PEPPERS)), PEPPERS)


def test_a_pepper_that_is_gone_is_named() -> None:
    """The error says which pepper is missing, and not what was sealed."""
    with pytest.raises(SealError, match="'old'"):
        unseal(seal("x", PEPPERS[1:]), PEPPERS[:1])
