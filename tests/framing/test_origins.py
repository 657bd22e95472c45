"""Hostile requests through the gateway to real servers, counted at both ends."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.framing import origins, path
from tests.framing.case import ANSWERED, KEY
from tests.framing.corpus import RULES
from tests.rig import rig

BUNDLED = [name for name, (program, *_) in origins.COMMANDS.items() if program is None]
LOG_S = 1.0  # some servers write a line after their answer, and refuse what another one serves
ANSWERS = {(rule.what, name): rule.answers for rule in RULES for name in rule.cases}


@pytest.mark.parametrize("name", origins.COMMANDS)
async def test_a_server_serves_what_was_identified_and_counted(
    redis: object, valkey_url: str, tmp_path: Path, name: str
) -> None:
    """No request is served that was not counted, none under another method, and none that carries what ends
    at the gateway; each hostile request is answered as its rule says."""
    reason = origins.missing(name)
    if reason is not None:
        pytest.skip(reason)
    with origins.origin(name, tmp_path) as origin:
        async with rig(valkey_url, origin.port, path.settings(origin.port)) as gateway:
            outcomes = await path.run(gateway)
        counted = sum(sum(outcome.counted.values()) for outcome in outcomes.values())
        seen, ends = origin.seen(), time.monotonic() + LOG_S
        while len(seen) < counted and time.monotonic() < ends:
            await asyncio.sleep(0.05)
            seen = origin.seen()

    assert not [each for each in seen if "SPOOFED" in "".join(each.headers.values())]
    served: dict[str, Counter[str]] = {}
    for each in seen:
        served.setdefault(each.headers.get("x-api-key", ""), Counter())[path.counted_name(each)] += 1
    assert served.keys() <= outcomes.keys()
    divergences = [
        (outcome.rule, outcome.name, dict(served[key]), dict(outcome.counted))
        for key, outcome in outcomes.items()
        if key in served and not served[key] <= outcome.counted
    ]
    assert divergences == []
    wrong = [
        (outcome.rule, outcome.name, outcome.answers)
        for outcome in outcomes.values()
        if outcome.answers != ANSWERS[outcome.rule, outcome.name]
    ]
    assert wrong == []
    assert [o for o in outcomes.values() if sum(o.counted.values()) != o.answers.count(ANSWERED)] == []
    print(f"{name}: {len(outcomes)} requests, {counted} counted, {len(seen)} served, 0 divergences")


@pytest.mark.deep
async def test_servers_alone_disagree(tmp_path: Path) -> None:
    """Sent to the servers directly, many of the requests are read differently by them, so that a gateway that
    let them pass would not know what it counts."""
    counts: list[dict[bytes, int]] = []
    for name in BUNDLED:
        directory = tmp_path / name
        directory.mkdir()
        with origins.origin(name, directory) as origin:
            gate = asyncio.Semaphore(64)

            async def one(raw: bytes, port: int = origin.port, gate: asyncio.Semaphore = gate) -> None:
                async with gate:
                    await path.exchange(port, raw, timeout_s=2.0)

            marked = {
                raw: raw.replace(KEY.encode(), f"{KEY[:-4]}{number:04}".encode())
                for number, raw in enumerate(raw for rule in RULES for raw in rule.cases.values())
            }
            await asyncio.gather(*(one(raw) for raw in marked.values()))
            served = Counter(each.headers.get("x-api-key", "") for each in origin.seen())
            counts.append({raw: served[f"{KEY[:-4]}{number:04}"] for number, raw in enumerate(marked)})
    differing = [raw for raw in counts[0] if len({served[raw] for served in counts}) > 1]
    assert len(differing) >= 30
    print(f"{len(differing)} of {len(counts[0])} requests are read differently by {', '.join(BUNDLED)}")
