"""What the analyzer does when an experiment ends: fitness, comparison, lesson, and the claim of a new best."""

import difflib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.models.access import Access
from evolvent.models.journaled import total
from evolvent.population import Member
from evolvent.service import Handler
from evolvent_analyzer.ledger import Ledger, Outcome
from evolvent_analyzer.lessons import Ended, Teaching, teach
from evolvent_schemas import CandidateAnalyzed, DiscoveryClaimed, ExperimentCompleted, ExperimentFailed, Fact
from evolvent_schemas.values import BASELINE, Comparison, Files, Lesson, Objective, Prediction, RunSettings


@dataclass(frozen=True)
class Analyst:
    """The handlers, with access to models for the runs that name some."""

    access: Access

    @property
    def handlers(self) -> dict[type[Fact], Handler]:
        return {ExperimentCompleted: self.on_experiment_ended, ExperimentFailed: self.on_experiment_ended}

    async def on_experiment_ended(
        self, cause: Record[ExperimentCompleted | ExperimentFailed], ledger: Ledger, effects: Effects
    ) -> Sequence[Fact]:
        """Analyze a stage once its outcome is settled: when a seed fails, or when the last seed is measured."""
        fact = cause.fact
        outcomes = ledger.outcomes.get(f"{fact.candidate}.{fact.stage}", {})
        settings = ledger.settings
        if settings is None or not _settles(fact, outcomes, settings.task.stage(fact.stage).seeds):
            return []
        if isinstance(fact, ExperimentFailed):
            return [await self._failed(fact, outcomes, ledger, effects)]
        return await self._measured(fact, outcomes, settings, ledger, effects)

    async def _failed(
        self, fact: ExperimentFailed, outcomes: Mapping[int, Outcome], ledger: Ledger, effects: Effects
    ) -> CandidateAnalyzed:
        ended = Ended(fact.candidate, outcomes, failure=f"{fact.reason}: {fact.message}")
        computed = (_failure_lesson(fact, ledger.members[fact.candidate]),)
        blamed = fact.blame == "candidate" and fact.candidate != BASELINE
        teaching = await teach(ended, computed, ledger, effects, self.access) if blamed else Teaching(computed)
        return CandidateAnalyzed(
            run=fact.run,
            candidate=fact.candidate,
            stage=fact.stage,
            outcome="failed",
            failure=fact.reason,
            message=fact.message,
            lessons=teaching.lessons,
            wall_seconds=sum(outcome.wall_seconds for outcome in outcomes.values()),
            calls=teaching.calls,
            cost=total(teaching.calls),
        )

    async def _measured(
        self,
        fact: ExperimentCompleted,
        outcomes: Mapping[int, Outcome],
        settings: RunSettings,
        ledger: Ledger,
        effects: Effects,
    ) -> list[Fact]:
        scores = [outcome.score for outcome in outcomes.values() if outcome.score is not None]
        score = statistics.fmean(scores)
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        fitness = settings.task.objective.fitness(score)
        comparisons = await _comparisons(fact.candidate, score, ledger, effects)
        computed = _lessons(ledger.members[fact.candidate], score, comparisons, settings.task.objective)
        teaching = await teach(Ended(fact.candidate, outcomes, score, spread), computed, ledger, effects, self.access)
        prediction = ledger.predictions.get(fact.candidate)
        analyzed = CandidateAnalyzed(
            run=fact.run,
            candidate=fact.candidate,
            stage=fact.stage,
            outcome="measured",
            score=score,
            fitness=fitness,
            seeds=len(scores),
            spread=spread,
            comparisons=comparisons,
            lessons=teaching.lessons,
            prediction_error=_error(score, prediction),
            prediction_held=prediction.low <= score <= prediction.high if prediction else None,
            wall_seconds=sum(outcome.wall_seconds for outcome in outcomes.values()),
            judgement=teaching.judgement,
            calls=teaching.calls,
            cost=total(teaching.calls),
        )
        return [analyzed, *_claim(analyzed, fitness, ledger)]


def _error(score: float, prediction: Prediction | None) -> float | None:
    """Give score minus prediction; none where that is no number that a fact can hold."""
    error = score - prediction.expected if prediction else math.inf
    return error if math.isfinite(error) else None


def _failure_lesson(fact: ExperimentFailed, member: Member) -> Lesson:
    return Lesson(
        change=member.motivation,
        effect=f"It was not measured: {fact.reason}: {fact.message[:500]}",
        avoid=f"What leads to {fact.reason.replace('_', ' ')} here" if fact.blame == "candidate" else "",
    )


def _settles(fact: ExperimentCompleted | ExperimentFailed, outcomes: Mapping[int, Outcome], seeds: int) -> bool:
    """Tell whether this very fact decides the stage, so that exactly one cause does in log order."""
    own = outcomes.get(fact.seed)
    if own is None or (own.attempt, own.failure is not None) != (fact.attempt, isinstance(fact, ExperimentFailed)):
        return False  # this seed ended before, at another try
    failures = [outcome for outcome in outcomes.values() if outcome.failure is not None]
    if isinstance(fact, ExperimentFailed):
        return fact.blame != "infrastructure" and len(failures) == 1
    return len(outcomes) == seeds and not failures


def _claim(analyzed: CandidateAnalyzed, fitness: float, ledger: Ledger) -> list[DiscoveryClaimed]:
    """Claim a new best; the baseline is what there was to beat."""
    best = ledger.best
    if best is None or best.fitness is None or best.score is None or fitness <= best.fitness:
        return []
    assert analyzed.score is not None
    return [
        DiscoveryClaimed(
            run=analyzed.run,
            candidate=analyzed.candidate,
            stage=analyzed.stage,
            score=analyzed.score,
            previous=best.score,
        )
    ]


async def _comparisons(candidate: str, score: float, ledger: Ledger, effects: Effects) -> tuple[Comparison, ...]:
    """Compare with each measured parent, then with the baseline."""
    own = await effects.artifacts.files(ledger.members[candidate].program)
    found = []
    for relative in ledger.relatives(candidate):
        assert relative.score is not None
        added, removed = changed_lines(await effects.artifacts.files(relative.program), own)
        found.append(
            Comparison(
                candidate=relative.candidate,
                difference=score - relative.score,
                lines_added=added,
                lines_removed=removed,
            )
        )
    return tuple(found)


def changed_lines(old: Files, new: Files) -> tuple[int, int]:
    """Count the lines that were added and removed between two programs, over all their files."""
    added = removed = 0
    for path in old.keys() | new.keys():
        before, after = old.get(path, "").splitlines(), new.get(path, "").splitlines()
        for tag, low, high, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if tag != "equal":
                removed, added = removed + high - low, added + end - start
    return added, removed


def _lessons(
    member: Member, score: float, comparisons: Sequence[Comparison], objective: Objective
) -> tuple[Lesson, ...]:
    """State what the change did to the metric, against the first relative; the baseline itself teaches nothing."""
    if not comparisons:
        return ()
    first = comparisons[0]
    gain = objective.fitness(first.difference)
    verdict = "improved" if gain > 0 else "worsened" if gain < 0 else "did not move"
    effect = (
        f"{objective.metric} {verdict}: {score:.6g} against {score - first.difference:.6g} of {first.candidate} "
        f"({first.difference:+.3g}), with {first.lines_added} lines added and {first.lines_removed} removed"
    )
    return (
        Lesson(
            change=member.motivation,
            effect=effect,
            attempt=f"Build on {member.candidate}" if gain > 0 else "",
            avoid=f"This change to {first.candidate}" if gain < 0 else "",
            prediction=f"Measured again, {member.candidate} scores {score:.6g}",
        ),
    )
