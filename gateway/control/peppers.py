"""Peppers: what each is still needed for, and sealing secrets anew when another one comes first."""

from __future__ import annotations

from pydantic import Field

from gateway import sealing
from gateway.control.auth import Right
from gateway.control.models import NoInput, NoQuery, Output
from gateway.control.operations import Call, Operation, Reply
from gateway.control.problems import conflict
from metering.ledger import peppers


class Pepper(Output):
    """A pepper, and what would be lost without it."""

    id: str | None = Field(description="Null: of tokens from before their pepper was written down.")
    configured: bool = Field(description="Whether this gateway knows it. What needs one it does not, fails.")
    first: bool = Field(description="Whether new keys, tokens and secrets come under it.")
    keys: int = Field(description="Texts of keys that open something and are known under it alone.")
    carried: int = Field(description="Texts that are known under a newer one as well.")
    tokens: int = Field(description="Tokens of the control API that are not over.")
    secrets: int = Field(description="Signing and webhook secrets sealed under it.")


class Peppers(Output):
    """All peppers that are configured or needed."""

    items: list[Pepper]


class Resealed(Output):
    """What sealing anew did."""

    resealed: int
    in_force: bool = False


async def listed(call: Call[NoInput, NoQuery]) -> Reply:
    """Tell what each pepper is needed for."""
    async with call.control.engine.connect() as connection:
        needed = {need.pepper_id: need for need in await peppers.needs(connection, call.now)}
    known = [pepper_id for pepper_id, _ in call.control.settings.security.peppers]
    ids = [*known, *(pepper_id for pepper_id in needed if pepper_id not in known)]
    return Reply(
        Peppers(
            items=[
                Pepper(
                    id=pepper_id,
                    configured=pepper_id in known,
                    first=pepper_id == known[0],
                    keys=need.keys,
                    carried=need.carried,
                    tokens=need.tokens,
                    secrets=need.secrets,
                )
                for pepper_id in ids
                for need in (needed.get(pepper_id, peppers.Need(pepper_id)),)
            ]
        )
    )


async def reseal(call: Call[NoInput, NoQuery]) -> Reply:
    """Seal all secrets under the first pepper."""
    known = call.control.settings.security.peppers

    def again(sealed: str) -> str:
        return sealing.seal(sealing.unseal(sealed, known), known)

    done = 0
    try:
        while more := await peppers.reseal(call.connection, known[0][0], again, now=call.now, by=call.by):
            done += more
    except sealing.SealError as error:
        raise conflict(f"Nothing was sealed anew: {error}.") from error
    return Reply(Resealed(resealed=done))


OPERATIONS = (
    Operation(
        "listPeppers",
        "GET",
        "/v1/peppers",
        "Tell what each pepper is still needed for",
        listed,
        rights=(Right.PEPPERS,),
        answer=Peppers,
    ),
    Operation(
        "resealSecrets",
        "POST",
        "/v1/peppers/reseal",
        "Seal signing and webhook secrets under the first pepper",
        reseal,
        rights=(Right.PEPPERS,),
        body=NoInput,
        answer=Resealed,
        changes=True,
        projects=True,
    ),
)
