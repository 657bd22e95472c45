"""`tallygate pepper`, and keys by pepper."""

from __future__ import annotations

import dataclasses
from typing import Any

from redis.asyncio import Redis

from gateway import sealing
from gateway.carrying import offer_of
from gateway.control.periodic import Jobs
from gateway.control.resources import Control
from metering import carrying
from policies import keys as texts
from tests.gateway.cli.conftest import Cli
from tests.gateway.control.conftest import Api
from tests.gateway.control.conftest import control as control
from tests.gateway.control.conftest import jobs as jobs
from tests.gateway.control.test_peppers import NEW, change_pepper, needs
from tests.metering.records import fetch_record


async def test_secrets_are_sealed_anew(
    admin: Api, control: Control, key: dict[str, Any], redis: Redis, cli: Cli
) -> None:
    """One command seals all secrets under the first pepper; they stay what they were, and it is audited."""
    await admin.patch(f"/v1/keys/{key['id']}", {"signing_secret": "word"})
    await admin.post("/v1/webhooks", {"url": "https://hooks.example/x"})
    change_pepper(control)
    status = await cli("pepper", "status", "--format", "json")
    assert {each["id"]: each["secrets"] for each in status.json} == {"p2": 0, "p1": 2}
    assert "Would: Seal 2 secrets" in (await cli("pepper", "reseal", "--dry-run")).err
    assert (await cli("pepper", "reseal", "--yes", "--format", "json")).json["resealed"] == 2
    assert (await needs(admin))["p2"]["secrets"] == 2
    record = await fetch_record(redis, key["id"])
    assert record is not None
    assert record.signing_secret is not None
    assert sealing.unseal(record.signing_secret, (NEW,)) == "word"
    entry = (await admin.get(f"/v1/audit?object={key['id']}")).body["items"][0]
    assert (entry["action"], entry["before"], entry["after"]) == (
        "key.reseal",
        {"pepper": "p1"},
        {"pepper": "p2"},
    )


async def test_a_pepper_that_went_is_told_of_while_something_needs_it(
    control: Control, jobs: Jobs, key: dict[str, Any], redis: Redis, cli: Cli
) -> None:
    """What was carried over works without it: at the end of a change nobody is alarmed."""
    old = texts.digest(key["key"], control.settings.security.peppers[0][1])
    change_pepper(control)
    await cli("pepper", "status")  # which carries its token over
    both = control.settings
    without = dataclasses.replace(both, security=dataclasses.replace(both.security, peppers=(NEW,)))
    control.settings = without
    assert "does not work until" in (await cli("pepper", "status")).err
    control.settings = both
    await carrying.offer(redis, [offer_of(key["key"], old, both.security.peppers)])
    await jobs.carry()
    control.settings = without
    done = await cli("pepper", "status", "--format", "json")
    assert {each["id"]: each["carried"] for each in done.json} == {"p2": 0, "p1": 1}
    assert "does not work until" not in done.err


async def test_keys_are_listed_by_pepper_on_the_command_line(cli: Cli, key: dict[str, Any]) -> None:
    """`key list --pepper` shows whose texts are known under it alone; one that there is not is refused."""
    listed = await cli("key", "list", "--pepper", "p1", "--format", "json")
    assert [each["id"] for each in listed.json] == [key["id"]]
    unknown = await cli("key", "list", "--pepper", "nothing")
    assert unknown.code != 0
    assert "is no pepper; there are p1" in unknown.err
