"""What happened inside a role: effects that were recorded, facts that could not be handled."""

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from evolvent_schemas.fact import Fact, Kind, Token
from evolvent_schemas.values import Cost, Digest, NonNegative, RoleName, RoundId

FailureWord = Literal["permanent", "conflict", "diverged", "schema", "deliveries", "code_changed", "grant_exceeded"]


class EffectRecorded(Fact):
    """The answer of something outside the log, written before the handler went on."""

    kind: ClassVar = Kind.OBSERVATION
    publisher: ClassVar = "*"
    key_fields: ClassVar = ("role", "cause", "name")

    type: Literal["effect.recorded"] = "effect.recorded"
    role: RoleName
    cause: UUID
    name: Token
    request: Digest
    """SHA-256 of the canonical JSON of the request; another digest means that the code has changed."""
    outcome: Literal["answered", "failed"]
    answer: Any = None
    """Plain JSON; none when it failed or when it is the artifact `artifact`."""
    artifact: Digest | None = None
    error: str = ""
    reason: FailureWord | None = None
    """Why it failed, in the word that the failed handling carries on."""
    cost: Cost = Cost()
    delivery: int = Field(ge=1)
    """Which delivery of the cause made the call; each earlier one may have made a call that was not recorded."""
    wall_seconds: NonNegative = 0.0


class HandlingFailed(Fact):
    """A role gave a fact up; its round ends with this."""

    kind: ClassVar = Kind.OBSERVATION
    publisher: ClassVar = "*"
    wakes: ClassVar = ("conductor",)
    key_fields: ClassVar = ("role", "cause")

    type: Literal["handling.failed"] = "handling.failed"
    role: RoleName
    cause: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    """Id of the fact; `seq-<n>` where the message carried none."""
    handled: str
    """Subject of the fact that could not be handled."""
    round: RoundId | None = None
    reason: FailureWord
    error: str
    """What was raised, and where."""
    deliveries: int = Field(ge=1)
    cost: Cost = Cost()
    """Sum of the effects that were recorded before it was given up; no other fact books them."""
