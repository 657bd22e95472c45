"""A stage under load for one scenario: what is done to it is up to the test, what came of it is checked."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from gateway import config
from gateway.settings import Settings
from tests.faults.audit import Accounts, account_for
from tests.faults.history import End
from tests.faults.load import Key, Load
from tests.faults.seeds import seed_of_run
from tests.faults.stage import Stage, stage

WORKERS = 2
SETTINGS = {
    "rollup_every_s": "0.5",
    "months": "0",  # no free month: everything is billed
    "access": '"none"',
}


@dataclass
class Trial:
    """A stage, its load, and once the load has ended what it came to."""

    stage: Stage
    load: Load
    seed: int
    connections: int
    accounts: Accounts | None = None
    _calling: asyncio.Task[None] | None = None

    @property
    def answered(self) -> int:
        """Return the calls that were answered as they should be."""
        return self.load.seen.total(End.ANSWERED, End.FREE)

    def call(self) -> None:
        """Begin to call, or go on after a rest."""
        self.load.stopping = False
        self._calling = asyncio.ensure_future(self.load.run(self.connections))

    async def rest(self) -> None:
        """End the calls under way, and make no more."""
        self.load.stopping = True
        if self._calling is not None:
            await self._calling

    async def more(self, calls: int, within_s: float = 120.0) -> float:
        """Wait until so many more calls are answered; returns the seconds until the first of them."""
        loop = asyncio.get_running_loop()
        began, before = loop.time(), self.answered
        first: float | None = None
        async with asyncio.timeout(within_s):
            while self.answered < before + calls:
                await asyncio.sleep(0.005)
                if first is None and self.answered > before:
                    first = loop.time() - began
        return first or 0.0


@contextlib.asynccontextmanager
async def under_load(
    place: Path, *, connections: int = 16, keys: int = 4, workers: int = WORKERS, **settings: str
) -> AsyncIterator[Trial]:
    """Load a stage until the block ends, then fail when a call is lost, doubled, crossed or left hanging."""
    seed = seed_of_run()
    print(f"seed {seed}")
    async with stage(place, seed=seed, workers=workers, impatient=True, **SETTINGS | settings) as made:
        wanted = await made.new_keys(keys)
        known = await asyncio.to_thread(settings_of, made)
        trial = Trial(made, load_of(made, wanted, known, seed), seed, connections)
        trial.call()
        try:
            await trial.more(100)
            yield trial
        finally:
            await trial.rest()
        await made.settle(workers)
        trial.accounts = await account_for(made, trial.load, known)
        assert trial.accounts.findings == [], list(trial.accounts.findings)[:20]
        assert trial.load.hung == 0
        print(told(trial))


def settings_of(made: Stage) -> Settings:
    """Return what a stage is configured to be; blocks."""
    return config.load(made.program.config_file, {}, keep_pepper=False)


def load_of(made: Stage, keys: list[Key], settings: Settings, seed: int) -> Load:
    """Return a load that calls a stage with some keys."""
    return Load(made.program.proxy_port, keys, settings.contract.zone, random.Random(seed))


def told(trial: Trial) -> str:
    """Say what a trial came to."""
    seen = trial.load.seen
    assert trial.accounts is not None
    ends = ", ".join(f"{end.name.lower().replace('_', ' ')} {seen.total(end):,}" for end in End)
    return f"{trial.load.attempted:,} calls: {ends}; charged and billed {trial.accounts.billed:,}"
