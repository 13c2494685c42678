"""The life of a run."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind
from evolvent_schemas.values import Best, Cost, RunId, RunSettings

RunEnd = Literal["completed", "budget", "halted", "failed"]
"""`completed`: every round closed. `budget`: time, money, tokens or compute ended it first. `halted`: a user did.
`failed`: the baseline could not be measured."""


class _RunFact(Fact):
    kind: ClassVar = Kind.CLAIM
    publisher: ClassVar = "conductor"


class RunStarted(_RunFact):
    """A run began; everything that decides how it goes is in its settings."""

    kind: ClassVar = Kind.DECISION
    wakes: ClassVar = ("cognition",)

    type: Literal["run.started"] = "run.started"
    settings: RunSettings
    user: str


class RunPaused(_RunFact):
    """No new round opens until the run is resumed; open rounds go on."""

    key_fields: ClassVar = ("ordinal",)

    type: Literal["run.paused"] = "run.paused"
    ordinal: int = Field(ge=0)
    reason: Literal["user", "role_failing", "ingestion_failed", "approval"]
    message: str


class RunResumed(_RunFact):
    """The rounds held back since the pause open."""

    key_fields: ClassVar = ("ordinal",)

    type: Literal["run.resumed"] = "run.resumed"
    ordinal: int = Field(ge=0)


class RunSteered(_RunFact):
    """A user told the designers something for all rounds to come."""

    key_fields: ClassVar = ("ordinal",)

    type: Literal["run.steered"] = "run.steered"
    ordinal: int = Field(ge=0)
    text: str


class RunHalted(_RunFact):
    """A user ended the run; effects and workers stop at once."""

    type: Literal["run.halted"] = "run.halted"
    reason: str


class RunFinished(_RunFact):
    """The last round closed and no other will open."""

    type: Literal["run.finished"] = "run.finished"
    state: RunEnd
    message: str
    rounds_closed: int = Field(ge=0)
    """Rounds of the ring that ended, whatever their outcome."""
    rounds_failed: int = Field(ge=0)
    """Those of them that did not complete."""
    best: Best | None = None
    cost: Cost = Cost()


class RunForked(_RunFact):
    """The run goes on from a prefix of another."""

    type: Literal["run.forked"] = "run.forked"
    origin: RunId
    at: int = Field(ge=0)
    """Number of the first round that is not shared with the origin."""
    changes: dict[str, str] = Field(default_factory=dict)
