from __future__ import annotations

from pathlib import Path

from tests.faults.history import End
from tests.faults.kinds import KINDS, SLOW, Spell
from tests.faults.long_run import Plan, run
from tests.faults.seeds import seed_of_run


async def test_every_call_is_accounted_for_under_every_quick_fault(tmp_path: Path) -> None:
    """A short run with one fault of each kind that takes no seconds: nothing lost, doubled or crossed."""
    plan = Plan(calls=1_500, each=1, slow=0, connections=8, seed=seed_of_run(), keys=4)
    shown: list[int] = []
    result = await run(plan, tmp_path, shown.append)
    told = "\n".join(result.lines())
    print(told)
    assert result.findings == [], told
    assert result.load.hung == 0, told
    assert plan.calls <= result.load.attempted == result.load.seen.total(*End)
    assert {kind for kind in KINDS if result.struck[kind]} >= set(KINDS) - set(SLOW)
    assert shown == sorted(shown)


def test_strikes_without_a_rest_are_one_spell() -> None:
    """A waiver may wait from before the first of several strikes that follow each other closely."""
    spell = Spell(0.5)
    assert spell.since(10.0) == 10.0
    spell.strike(10.0)
    assert spell.since(12.0) == 10.0
    spell.recover(12.0)
    assert spell.since(12.4) == 10.0
    spell.strike(12.4)
    spell.recover(12.5)
    assert (spell.since(12.9), spell.since(13.1)) == (10.0, 13.1)
    spell.strike(14.0)
    assert spell.since(14.1) == 14.0


def test_equal_seeds_plan_equal_faults() -> None:
    """Which fault comes at which call follows from the seed, in order of the calls, every kind as often."""
    plan = Plan(calls=1_000_000, each=500, slow=20, connections=8, seed=7)
    planned = plan.schedule()
    assert planned == plan.schedule() == sorted(planned)
    assert planned != Plan(calls=1_000_000, each=500, slow=20, connections=8, seed=8).schedule()
    for kind in KINDS:
        assert sum(other == kind for _, other in planned) == (20 if kind in SLOW else 500)
    assert min(at for at, kind in planned if kind == "worker killed") >= 500_000
