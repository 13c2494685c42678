"""An experiment: one program, one stage, one seed, one try."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind
from evolvent_schemas.values import (
    Blame,
    CandidateId,
    Digest,
    FailureReason,
    Finite,
    NonNegative,
    SandboxTier,
    StageName,
)


class _Experiment(Fact):
    """What identifies an experiment."""

    publisher: ClassVar = "engineer"
    key_fields: ClassVar = ("candidate", "stage", "seed", "attempt")

    candidate: CandidateId
    stage: StageName
    seed: int = Field(ge=0)
    """Index of the seed within the stage."""
    attempt: int = Field(ge=0)
    """Counts the tries; only a fault of the infrastructure leads to another."""


class ExperimentRequested(_Experiment):
    """The conductor granted compute beyond the round: a promotion or a confirmation."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "conductor"

    type: Literal["experiment.requested"] = "experiment.requested"
    purpose: Literal["promotion", "confirmation"]


class ExperimentStarted(_Experiment):
    """An engineer began to measure."""

    kind: ClassVar = Kind.OBSERVATION

    type: Literal["experiment.started"] = "experiment.started"
    tier: SandboxTier
    backend: str


class ExperimentCompleted(_Experiment):
    """The evaluator measured a candidate at one stage."""

    kind: ClassVar = Kind.OBSERVATION
    wakes: ClassVar = ("analyzer",)

    type: Literal["experiment.completed"] = "experiment.completed"
    score: Finite
    """Objective in the task's own unit and direction."""
    metrics: dict[str, Finite] = Field(default_factory=dict)
    wall_seconds: NonNegative
    cpu_seconds: NonNegative
    memory_mb: NonNegative
    """Peak resident memory of the candidate's process tree, in MiB."""
    output: str = ""
    """Tail of what the candidate printed."""
    tier: SandboxTier
    artifacts: dict[str, Digest] = Field(default_factory=dict)


class ExperimentFailed(_Experiment):
    """A candidate was not measured, for one named reason."""

    kind: ClassVar = Kind.OBSERVATION
    wakes: ClassVar = ("analyzer",)

    type: Literal["experiment.failed"] = "experiment.failed"
    reason: FailureReason
    blame: Blame
    message: str
    measured: dict[str, Finite] = Field(default_factory=dict)
    """What was measured of the limit that was breached."""
    wall_seconds: NonNegative
    output: str = ""
    tier: SandboxTier
