"""Keys that are found under an old pepper, on the wire."""

from __future__ import annotations

import dataclasses
import json

from redis.asyncio import Redis

from gateway.carrying import genuine
from gateway.sealing import SealError
from metering import carrying
from policies import keys
from tests.origin import OK_JSON, Origin
from tests.rig import PEPPER, Rig, rig

NEW = ("p2", b"n" * 32)


def get(key: str) -> bytes:
    """Return a plain call."""
    return f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def change_pepper(path: Rig) -> None:
    """Put a new pepper before the one that keys are under so far, as a new configuration does."""
    security = dataclasses.replace(path.settings.security, peppers=(NEW, ("p1", PEPPER)))
    path.proxy.replace_settings(dataclasses.replace(path.settings, security=security))


async def test_a_key_works_under_both_peppers_and_is_offered_once(
    redis: Redis, valkey_url: str, upstream: Origin
) -> None:
    """Calls go on through the change; the worker offers the text's new digest, never the text."""
    async with rig(valkey_url, upstream) as path:
        key = await path.add_key()
        assert (await path.send(get(key))).body == OK_JSON
        change_pepper(path)
        for _ in range(3):
            assert (await path.send(get(key))).body == OK_JSON
        carrier = path.proxy.carrier
        assert carrier is not None
        carrier.flush()
        sending = carrier._sending
        assert sending is not None
        await sending
        (offer,) = await carrying.offered(redis)
        assert genuine([offer], path.proxy.settings.security.peppers) == [offer]
        assert (offer.old, offer.new) == (keys.digest(key, PEPPER), keys.digest(key, NEW[1]))
        assert key not in json.dumps(dataclasses.asdict(offer))
        record = path.records[key]
        await path.change_key(key, credentials={**record.credentials, offer.new: None})
        path.proxy.records._unknown.clear()
        assert (await path.send(get(key))).body == OK_JSON
        asked = path.proxy.records.misses
        assert (await path.send(get(key))).body == OK_JSON
        assert path.proxy.records.misses == asked


async def test_a_secret_without_its_pepper_fails_the_call(path: Rig, upstream: Origin) -> None:
    """A key whose secret cannot be opened is neither let through unsigned nor refused as wrongly signed."""
    key = await path.add_key(signing_secret="sealed:word")

    def unseal(_: str) -> str:
        raise SealError("the pepper 'p0' is not configured")

    path.proxy.unseal = unseal
    assert (await path.send(get(key))).json()["ErrorCode"] == "InternalError"
    assert upstream.received == []
