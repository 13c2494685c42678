"""A round: one token of the ring, from its grant to its end."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind
from evolvent_schemas.values import CandidateId, Cost, Finite, Grant, ModelCall, NonNegative, Program, RoundId

RoundOutcome = Literal["completed", "candidate_failed", "exhausted", "role_failed", "code_changed", "expired"]
"""`completed`: a valid score. `candidate_failed`: the experiment failed by the candidate's or the task's own fault.
`exhausted`: no attempt gave a new program. `role_failed`: a role could not handle a fact. `code_changed`: a recorded
effect was asked with another request. `expired`: nothing closed the round in its time."""


class RoundOpened(Fact):
    """A round began, with everything it may spend."""

    kind: ClassVar = Kind.CLAIM
    publisher: ClassVar = "conductor"
    wakes: ClassVar = ("researcher",)
    key_fields: ClassVar = ("round",)

    type: Literal["round.opened"] = "round.opened"
    round: RoundId
    grant: Grant
    submission: Program | None = None
    """A program to measure as it stands: the baseline or a user's; none when the researcher designs one."""
    note: str = ""
    """What the submitter said about it."""


class RoundExhausted(Fact):
    """Every attempt that was granted gave no new program."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "researcher"
    wakes: ClassVar = ("conductor",)
    key_fields: ClassVar = ("round",)

    type: Literal["round.exhausted"] = "round.exhausted"
    round: RoundId
    attempts: int = Field(ge=1)
    reason: str
    calls: tuple[ModelCall, ...] = ()
    """The calls since the round's last proposal, if there was one."""
    cost: Cost = Cost()
    """Their sum."""


class RoundExpired(Fact):
    """A round stayed open beyond its time; seen by the ticker of whichever conductor looked first."""

    kind: ClassVar = Kind.OBSERVATION
    publisher: ClassVar = "conductor"
    wakes: ClassVar = ("conductor",)
    key_fields: ClassVar = ("round",)

    type: Literal["round.expired"] = "round.expired"
    round: RoundId
    open_seconds: NonNegative


class RoundClosed(Fact):
    """A round ended. Its closer opens round n + width in the same decision."""

    kind: ClassVar = Kind.CLAIM
    publisher: ClassVar = "conductor"
    key_fields: ClassVar = ("round",)

    type: Literal["round.closed"] = "round.closed"
    round: RoundId
    outcome: RoundOutcome
    candidate: CandidateId | None = None
    """The candidate that was measured, if one was."""
    score: Finite | None = None
    best: Finite | None = None
    """Best score of the run so far, this round included."""
    message: str = ""
    """Why it did not complete."""
    cost: Cost = Cost()
