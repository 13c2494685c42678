"""The port behind which experiments run: one experiment in, one named outcome out."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evolvent.errors import Refused
from evolvent_schemas.values import Blame, FailureReason, ProgramSpec, SandboxTier, Stage

Report = Callable[[Mapping[str, float]], Awaitable[None]]
"""Takes a long experiment's progress, numbers by name; raises nothing."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One measurement of one program at one stage with one seed."""

    id: str
    """Unique, and safe as a file name, for example `r7k2-42.0.explore.0.0`."""
    bundle: Path
    """The unpacked task folder with `evaluate.py`, perhaps with held-out data; the candidate cannot read it."""
    files: Mapping[str, str]
    program: ProgramSpec
    stage: Stage
    metric: str
    """Name of the objective within what `evaluate` returns."""
    seed: int
    report: Report | None = None
    """Whom to tell how it goes, every few seconds."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The evaluator measured the candidate."""

    score: float
    metrics: dict[str, float]
    wall_seconds: float
    cpu_seconds: float
    """CPU time of the candidate's sandboxes; the evaluator's own is not in it."""
    memory_mb: float
    """Largest memory of one sandbox, in MiB, beyond what the fork server had loaded already."""
    output: str
    """The end of what the candidate printed."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no measurement, for exactly one reason."""

    reason: FailureReason
    message: str
    measured: dict[str, float] = field(default_factory=dict)
    """What was measured at a breach, beside the limit."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    output: str = ""

    @property
    def blame(self) -> Blame:
        """Whose fault it is; only `infrastructure` is worth another try."""
        match self.reason:
            case "infrastructure":
                return "infrastructure"
            case "evaluator_crashed":
                return "evaluator"
            case _:
                return "candidate"


Outcome = Completed | Failed


class Backend(Protocol):
    """Where experiments run."""

    @property
    def tier(self) -> SandboxTier:
        """What contains the candidates."""
        ...

    async def start(self) -> None:
        """Make ready.

        Raises:
            Refused: what contains candidates here is not enough for what was allowed.
        """
        ...

    async def evaluate(self, experiment: Experiment) -> Outcome:
        """Run one experiment. Several may run at once; cancelling one ends and removes everything it started."""
        ...

    async def close(self) -> None:
        """End whatever runs and give everything back. Idempotent."""
        ...


def pods_of(stage: Stage) -> int:
    """Over how many pods a stage trains: its setting `pods`, or 1.

    Raises:
        Refused: it is no whole number of at least 1.
    """
    return whole(stage, "pods", 1, 1)


def whole(stage: Stage, name: str, default: int, least: int) -> int:
    """Read a setting of a stage that counts something.

    Raises:
        Refused: it is no whole number of at least `least`.
    """
    value = stage.settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Refused(f"stage {stage.name}: {name} must be a whole number of at least {least}, not {value!r}")
    return value
