"""`python -m benchmarks.rollup_once REDIS_URL DATABASE_URL`: one roll-up, as the control process does it.

It prints as JSON what `benchmarks.rollup_cost` tells of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from zoneinfo import ZoneInfo

import uvloop

from gateway import collector
from gateway.behind_calls import put_behind_calls
from metering.clients import connect
from metering.ledger import make_engine
from metering.rollup import roll_up

SANDBOX_PLANS = ("sandbox", "sandbox_box")  # of the example configuration


async def once(redis_url: str, database_url: str) -> Mapping[str, float]:
    """Roll up; returns seconds, CPU seconds of this process, key days and changed rows."""
    redis, engine = connect(redis_url), make_engine(database_url)
    put_behind_calls(engine)
    collector.settle()
    began, cpu = time.perf_counter(), time.process_time()
    done = await roll_up(redis, engine, zone=ZoneInfo("UTC"), now=time.time(), sandbox_plans=SANDBOX_PLANS)
    took = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    await engine.dispose()
    await redis.aclose()
    return took | {"key_days": done.key_days, "rows": done.rows}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(once(sys.argv[1], sys.argv[2]))))
