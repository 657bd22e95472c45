from __future__ import annotations

import hashlib
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.keys import digest, hint, is_well_formed, issue

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
entropies = st.binary(min_size=16, max_size=16)
KEY = issue(bytes(range(16)))


def test_an_issued_key_has_the_documented_form() -> None:
    """A key is `tg_`, 26 characters of its random bits and 7 of checksum, and always the same for the same
    bits.
    """
    assert KEY == "tg_00041061050r3gg28a1c60t3gf01yzap5"
    assert issue(bytes(16)).startswith("tg_" + "0" * 26)
    assert issue(b"\xff" * 16).startswith("tg_7" + "z" * 25)


@given(entropies)
def test_every_issued_key_is_well_formed(entropy: bytes) -> None:
    """Whatever the random bits are, the key made of them passes its own check."""
    key = issue(entropy)
    assert len(key) == 36
    assert set(key[3:]) <= set(ALPHABET)
    assert is_well_formed(key)


@given(entropies)
def test_all_random_bits_are_in_the_key(entropy: bytes) -> None:
    """The random bits can be read back from a key, so that no two of them share one."""
    number = 0
    for character in issue(entropy)[3:29]:
        number = number * 32 + ALPHABET.index(character)
    assert number.to_bytes(16) == entropy


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_is_made_of_16_bytes_only(length: int) -> None:
    """Too little or too much randomness is refused by its length."""
    with pytest.raises(ValueError, match=f"16 random bytes, not {length}"):
        issue(bytes(length))


@given(entropies)
def test_every_change_of_one_character_is_noticed(entropy: bytes) -> None:
    """No character of an issued key, its prefix included, can be replaced without being noticed."""
    key = issue(entropy)
    for place, right in enumerate(key):
        for wrong in PRINTABLE:
            if wrong != right:
                assert not is_well_formed(key[:place] + wrong + key[place + 1 :])


@given(entropies)
def test_every_swap_of_neighbours_is_noticed(entropy: bytes) -> None:
    """No two different neighbours of an issued key can change places without being noticed."""
    key = issue(entropy)
    for place in range(len(key) - 1):
        swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
        assert swapped == key or not is_well_formed(swapped)


@given(entropies, st.integers(3, 35), st.sampled_from(ALPHABET))
def test_a_missing_or_an_extra_character_is_noticed(entropy: bytes, place: int, extra: str) -> None:
    """An issued key that lost a character or won one is refused by its length."""
    key = issue(entropy)
    assert not is_well_formed(key[:place] + key[place + 1 :])
    assert not is_well_formed(key[:place] + extra + key[place:])
    assert not is_well_formed(key + extra)


def test_the_checksum_is_not_the_only_guard_of_the_form() -> None:
    """Other letter case, space around and a line's end do not pass for the issued key."""
    for wrong in (KEY[:3] + KEY[3:].upper(), " " + KEY, KEY + " ", KEY + "\n", "tg_", "tg_x"):
        assert not is_well_formed(wrong)


@pytest.mark.parametrize(
    "credential",
    [
        "a" * 8,
        "a" * 256,
        "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",  # 36 characters as an issued key has
        "tg-old-shop-key",
        "TG_old_shop_key",
        "key!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    ],
)
def test_imported_keys_keep_their_shape(credential: str) -> None:
    """Any printable ASCII of 8 to 256 characters can be a key that was issued elsewhere."""
    assert is_well_formed(credential)


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "a" * 7,
        "a" * 257,
        "with space",
        "with\ttab",
        "with\nline",
        "a" * 8 + "\n",
        "ключключ",
        "a" * 8 + "\x7f",
        "a" * 8 + "\0",
    ],
)
def test_what_cannot_be_a_key_is_refused_before_any_store_is_asked(credential: str) -> None:
    """Too short, too long and unprintable texts are no keys at all."""
    assert not is_well_formed(credential)


@given(st.text(PRINTABLE, min_size=8, max_size=256).filter(lambda text: not text.startswith("tg")))
def test_hardly_any_imported_key_is_taken_for_a_slip(credential: str) -> None:
    """A key from elsewhere is accepted unless it is an issued one but for its prefix."""
    assert is_well_formed(credential)


@given(entropies, st.text(string.printable, max_size=40))
def test_texts_that_begin_like_issued_keys_are_judged_as_such(entropy: bytes, rest: str) -> None:
    """Nothing that begins with `tg_` is accepted as imported: it is an issued key or it is none."""
    assert is_well_formed("tg_" + rest) == (len(rest) == 33 and rest == issue(_entropy(rest))[3:])


def _entropy(rest: str) -> bytes:
    number = 0
    for character in rest[:26]:
        number = number * 32 + max(ALPHABET.find(character), 0)
    return (number % 2**128).to_bytes(16)


def test_the_digest_is_an_hmac_under_the_pepper() -> None:
    """A key is known by its HMAC-SHA-256, another one under every other pepper."""
    pepper, other = b"pepper" * 6, b"another" * 5
    for each in (pepper, bytes(range(64)), bytes(range(65)), b"long" * 50):
        assert digest(KEY, each) == hmac.new(each, KEY.encode(), hashlib.sha256).hexdigest()
    assert digest(KEY, pepper) != digest(KEY, other)
    assert digest(KEY, pepper) != digest(issue(bytes(16)), pepper)
    assert len(digest(KEY, pepper)) == 64


@pytest.mark.parametrize(
    ("credential", "shown"),
    [(KEY, KEY[-4:]), ("a" * 12 + "wxyz", "wxyz"), ("abcdefgh", "gh"), ("abcdefghijkl", "jkl")],
)
def test_a_hint_gives_away_at_most_a_quarter(credential: str, shown: str) -> None:
    """The hint is the last four characters, and fewer of a key so short that four would be much of it."""
    assert hint(credential) == shown
