"""The candidates of a run, put together from every fact that is about them, and how they descend from each other."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from evolvent.log import Record
from evolvent.population import Member
from evolvent.report.values import Candidate, StageResult
from evolvent.summary import Summary
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    CandidateRepaired,
    CandidateScreened,
    DiscoveryClaimed,
    ExperimentCompleted,
    ExperimentFailed,
    Fact,
)

F = TypeVar("F", bound=Fact)
Records = Sequence[Record[Fact]]


def of(records: Iterable[Record[Fact]], cls: type[F]) -> list[F]:
    """Pick the facts of a class, in log order."""
    return [record.fact for record in records if isinstance(record.fact, cls)]


def ended(records: Iterable[Record[Fact]]) -> list[ExperimentCompleted | ExperimentFailed]:
    """Pick the experiments that ended, the completed first."""
    return [*of(records, ExperimentCompleted), *of(records, ExperimentFailed)]


def proxy(summary: Summary) -> str:
    """Name the stage whose scores the search goes by."""
    assert summary.settings is not None
    return summary.settings.task.stages[0].name


def ancestry(members: Mapping[str, Member], candidate: str | None) -> tuple[str, ...]:
    """Follow first parents back from a candidate; the oldest comes first."""
    found: dict[str, None] = {}
    while candidate is not None and candidate in members and candidate not in found:
        found[candidate] = None
        candidate = next(iter(members[candidate].parents), None)
    return tuple(reversed(found))


@dataclass(frozen=True)
class Files:
    """Everything the log says of candidates beside the population, by candidate."""

    summary: Summary
    analyzed: dict[str, CandidateAnalyzed]
    later: dict[str, list[StageResult]]
    screened: dict[str, CandidateScreened]
    tiers: dict[str, str]
    repairs: Counter[str]
    claimed: frozenset[str]
    path: frozenset[str]
    generations: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Records, summary: Summary) -> "Files":
        """Sort the facts of a run by the candidate that they are about."""
        first, analyses = proxy(summary), of(records, CandidateAnalyzed)
        later: dict[str, list[StageResult]] = {}
        for fact in analyses:
            if fact.stage != first:
                later.setdefault(fact.candidate, []).append(_result(fact))
        measured = ended(records)
        best = summary.best
        return cls(
            summary=summary,
            analyzed={fact.candidate: fact for fact in analyses if fact.stage == first},
            later=later,
            screened={fact.candidate: fact for fact in of(records, CandidateScreened)},
            tiers={fact.candidate: fact.tier for fact in measured if fact.stage == first},
            repairs=Counter(fact.candidate for fact in of(records, CandidateRepaired)),
            claimed=frozenset(fact.candidate for fact in of(records, DiscoveryClaimed)),
            path=frozenset(ancestry(summary.members, best.candidate if best else None)),
        )

    def generation(self, fact: CandidateProposed) -> int:
        """Count first parents; a candidate is proposed after its parents, so theirs are known."""
        parent = next(iter(fact.parents), "")
        number = self.generations.get(parent, -1) + 1
        self.generations[fact.candidate] = number
        return number


def _result(fact: CandidateAnalyzed) -> StageResult:
    return StageResult(stage=fact.stage, score=fact.score, seeds=fact.seeds, spread=fact.spread, failure=fact.failure)


def candidates(records: Records, summary: Summary) -> tuple[Candidate, ...]:
    """List every candidate in the order in which they were proposed."""
    files = Files.of(records, summary)
    return tuple(_candidate(fact, files) for fact in of(records, CandidateProposed))


def _candidate(fact: CandidateProposed, files: Files) -> Candidate:
    name = fact.candidate
    member = files.summary.members[name]
    analyzed, screened = files.analyzed.get(name), files.screened.get(name)
    gain, against = _gain(analyzed, files.summary)
    return Candidate(
        candidate=name,
        round=name.partition(".")[0],
        status=member.status,
        score=member.score,
        seeds=analyzed.seeds if analyzed else 0,
        spread=analyzed.spread if analyzed else None,
        gain=gain,
        against=against,
        claimed=name in files.claimed,
        parents=fact.parents,
        generation=files.generation(fact),
        on_path=name in files.path,
        proposer=fact.proposer,
        motivation=fact.motivation,
        cited=fact.cited,
        repeats=screened.of if screened else None,
        failure=member.failure,
        message=member.message,
        repairs=files.repairs[name],
        prediction=fact.prediction,
        prediction_held=analyzed.prediction_held if analyzed else None,
        wall_seconds=analyzed.wall_seconds if analyzed else 0.0,
        tier=files.tiers.get(name, ""),
        digest=fact.program.digest,
        stages=tuple(files.later.get(name, ())),
    )


def _gain(analyzed: CandidateAnalyzed | None, summary: Summary) -> tuple[float | None, str | None]:
    """Give the gain over the first relative that it was compared with."""
    if analyzed is None or not analyzed.comparisons:
        return None, None
    assert summary.settings is not None
    first = analyzed.comparisons[0]
    return summary.settings.task.objective.fitness(first.difference), first.candidate
