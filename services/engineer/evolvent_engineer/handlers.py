"""What the engineer does when a program was screened as new: measure it, seed by seed, and say what was seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evolvent import task
from evolvent.errors import Permanent
from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.service import Handler
from evolvent_engineer.backend import Backend, Completed, Experiment, Outcome, Report
from evolvent_engineer.orders import Orders
from evolvent_engineer.progress import Progress
from evolvent_schemas import (
    CandidateScreened,
    ExperimentCompleted,
    ExperimentFailed,
    ExperimentStarted,
    Fact,
    subjects,
)
from evolvent_schemas.values import Files, RunSettings, Stage

TRIES = 3
"""How often an experiment is tried when the infrastructure failed; then the role gives up."""
SHOWN = 4000
"""Characters of a candidate's output that travel in a fact."""


@dataclass(frozen=True)
class Engineer:
    """The handlers, over one backend."""

    backend: Backend
    name: str
    bundles: Path
    """Where task folders are unpacked, each under its digest."""
    progress: Progress | None = None

    @property
    def handlers(self) -> dict[type[Fact], Handler]:
        return {CandidateScreened: self.on_screened}

    async def on_screened(self, cause: Record[CandidateScreened], orders: Orders, effects: Effects) -> Sequence[Fact]:
        """Measure a new program at the first stage. Every fact of it is an observation, stored as it is made.

        Raises:
            Permanent: the infrastructure failed at every try.
        """
        screened, settings = cause.fact, orders.settings
        if screened.verdict == "duplicate" or settings is None:
            return []
        stage = settings.task.stages[0]
        program = orders.programs.get(screened.candidate)
        if program is None:
            return []  # the stage was analyzed before this delivery
        files = await effects.artifacts.files(program)
        bundle = task.unpack(await effects.artifacts.get(settings.bundle), self.bundles / settings.bundle)
        for seed in range(stage.seeds):
            order = _Order(screened.candidate, files, bundle, settings, stage, seed)
            if isinstance(await self._measure(order, effects), ExperimentFailed):
                break
        return []

    async def _measure(self, order: "_Order", effects: Effects) -> Fact:
        for attempt in range(TRIES):
            fact = await self._try(order, attempt, effects)
            if not isinstance(fact, ExperimentFailed) or fact.blame != "infrastructure":
                return fact
            fault = fact.message
        raise Permanent(f"experiment {order.key(TRIES - 1)} failed {TRIES} times by the infrastructure: {fault}")

    async def _try(self, order: "_Order", attempt: int, effects: Effects) -> Fact:
        run, key = effects.cause.fact.run, order.key(attempt)

        async def start() -> ExperimentStarted:
            return ExperimentStarted(
                run=run,
                candidate=order.candidate,
                stage=order.stage.name,
                seed=order.seed,
                attempt=attempt,
                tier=self.backend.tier,
                backend=self.name,
            )

        async def measure() -> Fact:
            report = self.progress.of(run, key) if self.progress else None
            return ended(await start(), await self.backend.evaluate(order.experiment(run, attempt, report)))

        begun = await effects.observe((subjects.fact(run, "experiment.started", key),), start)
        if not effects.live and isinstance(begun, ExperimentStarted) and begun.backend != self.name:
            return begun  # a backend whose ends no handler waits for
        return await effects.observe(ends_of(run, key), measure)


@dataclass(frozen=True)
class _Order:
    """One program to measure with one seed."""

    candidate: str
    files: Files
    bundle: Path
    settings: RunSettings
    stage: Stage
    seed: int

    def key(self, attempt: int) -> str:
        return f"{self.candidate}.{self.stage.name}.{self.seed}.{attempt}"

    def experiment(self, run: str, attempt: int, report: Report | None) -> Experiment:
        return Experiment(
            id=f"{run}-{self.key(attempt)}",
            bundle=self.bundle,
            files=self.files,
            program=self.settings.task.program,
            stage=self.stage,
            metric=self.settings.task.objective.metric,
            seed=self.seed,
            report=report,
        )


def ends_of(run: str, key: str) -> tuple[str, ...]:
    """Name the subjects on one of which the end of an experiment stands."""
    return tuple(subjects.fact(run, f"experiment.{end}", key) for end in ("completed", "failed"))


def ended(started: ExperimentStarted, outcome: Outcome) -> Fact:
    """Turn what the backend saw into the fact of it."""
    shared = started.model_dump(include={"run", "candidate", "stage", "seed", "attempt", "tier"})
    shared |= {"wall_seconds": outcome.wall_seconds, "output": outcome.output[-SHOWN:]}
    if isinstance(outcome, Completed):
        metrics = {name: value for name, value in outcome.metrics.items() if math.isfinite(value)}
        return ExperimentCompleted(
            score=outcome.score,
            metrics=metrics,
            cpu_seconds=outcome.cpu_seconds,
            memory_mb=outcome.memory_mb,
            **shared,
        )
    measured = {name: value for name, value in outcome.measured.items() if math.isfinite(value)}
    return ExperimentFailed(
        reason=outcome.reason, blame=outcome.blame, message=outcome.message[:SHOWN], measured=measured, **shared
    )
