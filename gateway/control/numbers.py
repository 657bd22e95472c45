"""Numbers of invoices and credit notes that are passed over: customers have them, the ledger does not."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import Input, NoQuery, Output, Reason
from gateway.control.operations import Call, Operation, Reply
from metering.billing import passing_over
from metering.ledger.numbers import PREFIXES, written

SERIES = {prefix: series for series, prefix in PREFIXES.items()}


class PassingOver(Input):
    """Up to which number a series is passed over, and why."""

    through: Annotated[str, Field(pattern=rf"^({'|'.join(SERIES)})-[0-9]{{1,15}}$")] = Field(
        description="The last number that customers have, such as INV-000123 or CRN-000007."
    )
    reason: Reason


class PassedOver(Output):
    """Numbers that no document of the ledger will bear."""

    first: str
    last: str
    count: int


async def pass_over(call: Call[PassingOver, NoQuery]) -> Reply:
    """Let a series go on behind a number."""
    prefix, _, number = call.body.through.partition("-")
    done = await passing_over.pass_over(
        call.connection, SERIES[prefix], int(number), reason=call.body.reason, now=call.now, by=call.by
    )
    told = PassedOver(
        first=written(done.series, done.first),
        last=written(done.series, done.last),
        count=done.last - done.first + 1,
    )
    return Reply(told)


OPERATIONS = (
    Operation(
        "passOverNumbers",
        "POST",
        "/v1/numbers/pass-over",
        "Pass over numbers of invoices or credit notes that customers have and the ledger does not know",
        pass_over,
        rights=(Right.BILLS_WRITE,),
        body=PassingOver,
        answer=PassedOver,
        changes=True,
        once=True,
    ),
)
