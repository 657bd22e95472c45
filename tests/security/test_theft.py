"""What somebody gets who steals the database, Redis, the log, a backup, the configuration or a token."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from policies import keys
from tests.security.loot import CANDIDATES, Loot, candidates, stolen
from tests.system.traffic import new_key

TRIED_AS_KEYS, TRIED_AS_TOKENS = 60, 8  # of tokens an address may name few wrong ones


@pytest.fixture(scope="module")
def loot(tmp_path_factory: pytest.TempPathFactory, valkey_url: str, postgres_url: str) -> Iterator[Loot]:
    """One program, used with every kind of secret, and copies of what it keeps."""
    with stolen(tmp_path_factory.mktemp("loot"), valkey_url, postgres_url) as found:
        yield found


def found_in(content: str, texts: tuple[str, ...]) -> list[str]:
    """Return which texts, or most of which, stand in a place."""
    return [text for text in texts if text in content or text[4:-4] in content]


def opens_as_key(loot: Loot, text: str) -> bool:
    """Say whether a text is taken for a key."""
    query = urllib.parse.urlencode({"instanceKey": text, "itemId": 1})
    _, body = loot.program.request("GET", f"/service-json/GetItemInfoList?{query}")
    return str(json.loads(body)["ErrorCode"]) != "AccessDenied"


def opens_as_token(loot: Loot, text: str) -> int:
    """Return how the control API answers to a text as a token."""
    url = f"http://127.0.0.1:{loot.program.control_port}/v1/keys"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {text}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def opens_nothing(loot: Loot, content: str) -> None:
    """Try what a place holds as keys and as tokens, the longest texts first; none is taken."""
    tried = candidates(content, TRIED_AS_KEYS)
    assert len(tried) > 5, "an empty place proves nothing"
    assert [text for text in tried if opens_as_key(loot, text)] == []
    assert {opens_as_token(loot, text) for text in tried[:TRIED_AS_TOKENS]} == {401}


def test_what_is_right_opens(loot: Loot) -> None:
    """The ways in that the other tests find closed are open to the right texts."""
    assert opens_as_key(loot, loot.keys[0])
    assert opens_as_token(loot, loot.program.token) == 200
    assert len(CANDIDATES.findall(loot.database)) > 50


def test_a_stolen_database_opens_nothing(loot: Loot) -> None:
    """It holds no text of a key, token or secret, and none of what it holds is taken for one."""
    assert found_in(loot.database, loot.secrets) == []
    digest = keys.digest(loot.keys[0], loot.pepper.encode())
    assert digest in loot.database, "keys are there as digests"
    assert not opens_as_key(loot, digest)
    opens_nothing(loot, loot.database)


def test_a_stolen_redis_opens_nothing(loot: Loot) -> None:
    """Records and counters hold no text of a key or secret, and nothing that is taken for one."""
    assert found_in(loot.redis, loot.secrets) == []
    assert keys.digest(loot.keys[0], loot.pepper.encode()) in loot.redis
    opens_nothing(loot, loot.redis)


def test_a_stolen_log_opens_nothing(loot: Loot) -> None:
    """With every call logged it holds addresses, methods and ids, and no key, token, secret or parameter."""
    assert loot.log.count('"event":"call"') >= 3
    assert found_in(loot.log, loot.secrets) == []
    opens_nothing(loot, loot.log)


def test_a_stolen_backup_cannot_even_be_guessed_at(loot: Loot) -> None:
    """Without the pepper nobody can tell whether a guess at a key is right; with it, one guess at a time."""
    assert found_in(loot.backup, loot.secrets) == []
    for pepper in (b"", secrets.token_bytes(32), b"p1"):
        assert keys.digest(loot.keys[0], pepper) not in loot.backup
    assert keys.digest(loot.keys[0], loot.pepper.encode()) in loot.backup


def test_a_stolen_configuration_holds_no_secret(loot: Loot, tmp_path: Path) -> None:
    """Secrets are named by file or environment variable; written into the file they are refused."""
    assert found_in(loot.configuration, loot.secrets) == []
    environ = {"TALLYGATE_DATA_DIR": str(tmp_path / "data")}
    for table in (
        '[[security.peppers]]\nid = "p"\nvalue = "0123456789012345678901234567890123456789"\n',
        '[notices.smtp]\nhost = "mail.example"\nsender = "a@b.example"\npassword = "word"\n',
        "[server.control_tls]\ncert = 'x'\nkey = 'y'\n",
    ):
        file = tmp_path / "config.toml"
        file.write_text(table + loot.configuration.replace("[notices]", "[notices_]", 1))
        with pytest.raises(ConfigError) as refused:
            load(file, environ)
        assert any("is unknown" in error for error in refused.value.errors)


def test_a_stolen_token_ends_with_the_next_request(loot: Loot) -> None:
    """Revoked, it opens nothing from then on, and what it did stands in the audit log under its id."""
    made = loot.program.control("POST", "/v1/tokens", {"name": "lost", "role": "support"})
    assert opens_as_token(loot, made["token"]) == 200
    loot.program.control("DELETE", f"/v1/tokens/{made['id']}")
    assert opens_as_token(loot, made["token"]) == 401


def test_a_stolen_key_ends_with_the_next_call(loot: Loot) -> None:
    """Revoked or bound to a network, it is refused from the next call on."""
    key_id, text = new_key(loot.program)
    assert opens_as_key(loot, text)
    loot.program.control("PATCH", f"/v1/keys/{key_id}", {"allow_networks": ["203.0.113.0/24"]})
    assert not opens_as_key(loot, text)
    loot.program.control("PATCH", f"/v1/keys/{key_id}", {"allow_networks": []})
    assert opens_as_key(loot, text)
    loot.program.control("POST", f"/v1/keys/{key_id}/revoke", {})
    assert not opens_as_key(loot, text)
