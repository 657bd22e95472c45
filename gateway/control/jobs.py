"""Jobs that run by themselves, started by hand: the roll-up and the rebuild."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import Input, NoInput, NoQuery, Output
from gateway.control.operations import Call, Operation, Reply

SHOWN_RAISED = 100


class RollUp(Input):
    """How to roll up."""

    full: bool = Field(False, description="Look at every counter, not only at changed ones.")


class RaisedCounter(Output):
    """A counter of which Redis had lost a part."""

    key_id: str
    day: date
    counter: str
    seen: int
    ledger: int


class RolledUp(Output):
    """What a roll-up did."""

    key_days: int = Field(description="Days of keys that were looked at.")
    rows: int = Field(description="Days of keys that changed in the ledger.")
    raised: int = Field(description="Counters that Redis had lost a part of, raised again.")
    first_raised: list[RaisedCounter] = Field(description=f"The first {SHOWN_RAISED} of them.")
    stamped_accounts: list[str] = Field(description="Accounts whose first request was found.")
    rebuilt: bool = Field(
        description="Whether Redis had lost its data, or may have, and was filled from the ledger."
    )
    interruptions: list[str] = Field(description="Ids of the interruptions that were noticed.")


class Rebuilt(Output):
    """What a rebuild did."""

    key_days: int = Field(description="Days of keys that were looked at.")
    raised: int = Field(description="Counters that stood lower than in the ledger.")
    records: int = Field(description="Keys that are in force.")


async def roll_up(call: Call[RollUp, NoQuery]) -> Reply:
    """Write the counters to the ledger now."""
    report = await call.control.rollups.roll_up(full=call.body.full)
    return Reply(
        RolledUp(
            key_days=report.key_days,
            rows=report.rows,
            raised=len(report.raised),
            first_raised=[
                RaisedCounter.model_validate(each, from_attributes=True)
                for each in report.raised[:SHOWN_RAISED]
            ],
            stamped_accounts=list(report.stamped_accounts),
            rebuilt=report.lost or report.older or report.new or report.unsure,
            interruptions=[each.id for each in report.interruptions],
        )
    )


async def rebuild(call: Call[NoInput, NoQuery]) -> Reply:
    """Fill Redis from the ledger."""
    report = await call.control.rollups.rebuild(by=call.by)
    return Reply(Rebuilt(key_days=report.key_days, raised=report.raised, records=report.records))


OPERATIONS = (
    Operation(
        "rollUp",
        "POST",
        "/v1/rollup",
        "Write the counters to the ledger now; doing it again changes nothing",
        roll_up,
        rights=(Right.JOBS_RUN,),
        body=RollUp,
        answer=RolledUp,
    ),
    Operation(
        "rebuild",
        "POST",
        "/v1/rebuild",
        "Restore counters and keys in Redis from the ledger",
        rebuild,
        rights=(Right.JOBS_RUN,),
        body=NoInput,
        answer=Rebuilt,
    ),
)
