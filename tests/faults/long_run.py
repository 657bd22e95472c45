"""Calls by the million through a gateway while everything around it fails; then each is accounted for.

    python -m tests.faults.long_run --calls 1000000 --each 500 --seed 1

The seed decides which fault comes at which call and how each one goes. In the first half no worker is killed,
so each call that is not charged has to be waived exactly; in the second half workers are killed as well, and
a waiver may die with the worker that held it. How many did is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.progress import Progress

from tests.faults.audit import Accounts, account_for
from tests.faults.history import End, Finding
from tests.faults.kinds import KINDS, SLOW, Faults
from tests.faults.load import Load
from tests.faults.seeds import seed_of_run
from tests.faults.stage import stage
from tests.faults.trial import SETTINGS as OF_TRIALS
from tests.faults.trial import WORKERS, load_of, settings_of

_WHAT = "Calls by the million while everything fails; then each is accounted for."
SETTINGS = OF_TRIALS | {
    "redis_timeout_s": "0.25",
    "counter_deadline_s": "0.75",
    "connect_timeout_s": "1.0",
    "answer_timeout_s": "1.0",
    "on_counter_failure": '"open"',  # of one of the two routes that are called
}
HALF_OPEN_S = 2.0  # of the ledger's connections, whose own patience is a minute: 500 of them would take a day
OTHERS = ("rows", "roll_up", "billed", "counter", "fault")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be; `each` counts faults of a kind, `slow` those of a kind that takes seconds."""

    calls: int
    each: int
    slow: int
    connections: int
    seed: int
    keys: int = 32  # of each half

    def schedule(self) -> list[tuple[int, str]]:
        """Return which fault comes at which call, in order."""
        chance = random.Random(self.seed)
        found = []
        for kind in KINDS:
            first = self.calls // 2 if kind == "worker killed" else self.calls // 100
            for _ in range(self.slow if kind in SLOW else self.each):
                found.append((chance.randrange(first, self.calls), kind))
        return sorted(found)


@dataclass(slots=True)
class Result:
    """What a run came to."""

    plan: Plan
    load: Load
    struck: Counter[str]
    failed: list[Finding]  # faults that could not be injected
    accounts: Accounts
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """Return every rule that was broken."""
        return self.failed + self.accounts.findings

    def lines(self) -> list[str]:
        """Tell it."""
        seen, load = self.load.seen, self.load
        told = [
            f"seed {self.plan.seed}: {load.attempted:,} calls in {self.seconds:.0f} s, "
            f"{self.struck.total():,} faults of {len(self.struck)} kinds",
            "",
            *(f"  {kind:<24}{self.struck[kind]:>6}" for kind in KINDS),
            "",
            f"  answered  {seen.total(End.ANSWERED):>10,}    and charged",
            f"  free      {seen.total(End.FREE):>10,}    answered, not charged by the contract",
            f"  refused   {seen.total(End.REFUSED):>10,}    {_most(load.refusals)}",
            f"  in doubt  {seen.total(End.IN_DOUBT):>10,}    no whole answer was seen",
            f"  charged   {self.accounts.charged:>10,}    in the ledger",
            f"  billed    {self.accounts.billed:>10,}    on the bill of the month",
            f"  waivers that died with a killed worker: {self.accounts.charged_too_much:,}",
            "",
        ]
        sizes: Counter[str] = Counter()
        for finding in self.findings:
            sizes[finding.rule] += finding.size
            told.append(f"  {finding.rule}: {finding.text}")
        told.append(
            f"lost {sizes['lost']}, double {sizes['double'] + sizes['sent_twice']}, "
            f"crossed {sizes['crossed'] + sizes['unsent']}, hung {load.hung}, "
            f"other differences {sum(sizes[rule] for rule in OTHERS)}"
        )
        return told


def _most(refusals: Counter[str]) -> str:
    return ", ".join(f"{name}: {times:,}" for name, times in refusals.most_common(5))


async def run(plan: Plan, place: Path, progress: Callable[[int], None]) -> Result:
    """Run it all in an empty directory; `progress` is told the calls made so far."""
    began = time.monotonic()
    async with stage(place, seed=plan.seed, workers=WORKERS, impatient=True, **SETTINGS) as made:
        made.ledger.half_open_s = HALF_OPEN_S
        keys = await made.new_keys(2 * plan.keys)
        settings = await asyncio.to_thread(settings_of, made)
        load = load_of(made, keys, settings, plan.seed)
        load.use(0, plan.keys)
        faults = Faults(made, load, plan.seed)
        calling = asyncio.ensure_future(load.run(plan.connections))
        due = plan.schedule()[::-1]
        halves = False
        while load.attempted < plan.calls or due or faults.waiting:
            while due and due[-1][0] <= load.attempted:
                faults.inject(due.pop()[1])
            if not halves and load.attempted >= plan.calls // 2:
                halves = True
                load.use(plan.keys, plan.keys)
            progress(load.attempted)
            await asyncio.sleep(0.02)
            if calling.done() or faults.errors:
                break
        load.stopping = True
        await calling
        await faults.close()
        await made.settle(WORKERS)
        findings = [Finding("fault", 1, f"could not be injected: {error!r}") for error in faults.errors]
        accounts = await account_for(made, load, settings)
        return Result(plan, load, faults.struck, findings, accounts, time.monotonic() - began)


@contextlib.contextmanager
def _shown(calls: int) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal, else a line at every twentieth of the way."""
    if sys.stderr.isatty():
        with Progress() as bar:
            task = bar.add_task("calls", total=calls)
            yield lambda done: bar.update(task, completed=done)
        return
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done * 20 >= (told + 1) * calls:
            told = done * 20 // calls
            print(f"{done:,} calls", file=sys.stderr, flush=True)

    yield tell


def main() -> int:
    """Run from the command line; the exit status is 1 when anything was lost, doubled or crossed."""
    parser = argparse.ArgumentParser("python -m tests.faults.long_run", description=_WHAT)
    parser.add_argument("--calls", type=int, default=1_000_000, help="at least; default 1,000,000")
    parser.add_argument("--each", type=int, default=500, help="faults of each kind; default 500")
    parser.add_argument("--slow", type=int, help="of each kind that takes seconds; default as --each")
    parser.add_argument("--connections", type=int, default=48)
    parser.add_argument("--seed", type=int, default=seed_of_run())
    parser.add_argument("--place", type=Path, help="an empty directory for data and logs, to be kept")
    given = parser.parse_args()
    slow = given.each if given.slow is None else given.slow
    plan = Plan(given.calls, given.each, slow, given.connections, given.seed)
    print(f"seed {plan.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        place = given.place or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tallygate-")))
        place.mkdir(parents=True, exist_ok=True)
        result = uvloop.run(run(plan, place, stack.enter_context(_shown(plan.calls))))
    print("\n".join(result.lines()))
    return 1 if result.findings or result.load.hung else 0


if __name__ == "__main__":
    sys.exit(main())
