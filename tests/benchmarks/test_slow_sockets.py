"""The slow sockets of the measurement are as slow as they claim, and see their end."""

from __future__ import annotations

import dataclasses

from benchmarks.slow_clients import Attack
from tests.origin import OK_JSON, answer, origin
from tests.rig import example_settings, rig


async def test_every_kind_is_opened_and_closed_by_the_gateway(redis: object, valkey_url: str) -> None:
    """Of each kind as many are closed as were opened, and none before it could be slow."""
    async with origin() as upstream:
        upstream.reply = answer(OK_JSON.ljust(100_000))
        settings = example_settings(upstream.port)
        bounds = {"head_timeout_s": 0.6, "body_timeout_s": 0.6, "idle_timeout_s": 0.6}
        quick = {u: dataclasses.replace(u, answer_timeout_s=0.6) for u in settings.upstreams}
        settings = dataclasses.replace(
            settings,
            server=dataclasses.replace(settings.server, **bounds),
            upstreams=tuple(quick.values()),
            routes=tuple(dataclasses.replace(r, upstream=quick[r.upstream]) for r in settings.routes),
        )
        async with rig(valkey_url, upstream, settings) as path:
            attack = Attack(path.port, await path.add_key(), 0.0)
            await attack.run(10)
    for kind in attack.kinds.values():
        assert (kind.opened, kind.closed) == (2, 2)
        assert kind.longest_s > 0.4
