"""A candidate program, from its design to what it taught."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind
from evolvent_schemas.values import (
    CandidateId,
    Comparison,
    Cost,
    FailureReason,
    Finite,
    Judgement,
    Lesson,
    ModelCall,
    NonNegative,
    Prediction,
    Program,
    StageName,
)


class CandidateProposed(Fact):
    """The researcher designed a program."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "researcher"
    wakes: ClassVar = ("cognition",)
    key_fields: ClassVar = ("candidate",)

    type: Literal["candidate.proposed"] = "candidate.proposed"
    candidate: CandidateId
    program: Program
    parents: tuple[CandidateId, ...] = ()
    proposer: str
    """Who designed it: `operators/<operator>`, `llm/<model>`, `submitted/<user>`."""
    motivation: str
    cited: tuple[str, ...] = ()
    """Items and lessons the design leans on; each was retrieved in this round."""
    prediction: Prediction | None = None
    calls: tuple[ModelCall, ...] = ()
    """Every call behind it, those of attempts that gave no program included."""
    cost: Cost = Cost()
    """Their sum."""


class CandidateScreened(Fact):
    """Cognition compared the program with every earlier one of the run."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "cognition"
    wakes: ClassVar = ("engineer", "researcher")
    key_fields: ClassVar = ("candidate",)

    type: Literal["candidate.screened"] = "candidate.screened"
    candidate: CandidateId
    verdict: Literal["new", "duplicate"]
    of: CandidateId | None = None
    """The earlier candidate that it repeats."""
    fingerprint: str
    """Digest of the program's normal form; equal for near-duplicates."""


class CandidateRepaired(Fact):
    """The debug loop replaced a program that did not run by one that does."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "engineer"
    key_fields: ClassVar = ("candidate", "repair")

    type: Literal["candidate.repaired"] = "candidate.repaired"
    candidate: CandidateId
    repair: int = Field(ge=0)
    program: Program
    fault: str
    """What the original did wrong."""
    cost: Cost = Cost()


class CandidateAnalyzed(Fact):
    """One stage of measurement became fitness, a comparison and lessons."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "analyzer"
    wakes: ClassVar = ("conductor",)
    key_fields: ClassVar = ("candidate", "stage")

    type: Literal["candidate.analyzed"] = "candidate.analyzed"
    candidate: CandidateId
    stage: StageName
    outcome: Literal["measured", "failed"]
    score: Finite | None = None
    """Mean over the seeds, in the task's unit; none when it failed."""
    fitness: Finite | None = None
    """The score turned so that more is better."""
    seeds: int = Field(default=0, ge=0)
    spread: NonNegative | None = None
    """Standard deviation over the seeds, ddof 1; none below two seeds."""
    failure: FailureReason | None = None
    message: str = ""
    comparisons: tuple[Comparison, ...] = ()
    """Against each measured parent, then the baseline."""
    lessons: tuple[Lesson, ...] = ()
    prediction_error: Finite | None = None
    """Score minus the predicted score."""
    prediction_held: bool | None = None
    """Whether the score lay within the predicted interval."""
    wall_seconds: NonNegative = 0.0
    """Compute the stage used, all seeds and tries together."""
    judgement: Judgement | None = None
    """What a model thinks of the program; none where the run asks for no judgement, or it could not be had."""
    calls: tuple[ModelCall, ...] = ()
    """The calls for lessons and judgement."""
    cost: Cost = Cost()
    """The calls' sum."""
