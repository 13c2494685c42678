"""The population of a run as a fold: every candidate with its program, its parents and what became of it."""

import bisect
from typing import Literal

from pydantic import Field

from evolvent.folds import Map, State, empty
from evolvent_schemas import CandidateAnalyzed, CandidateProposed, CandidateScreened, ContextSampled, Fact, RunStarted
from evolvent_schemas.values import BASELINE, FailureReason, Program, RunSettings, Value

ELITE = 64
"""The leading candidates that samplers with a ranking choose from; a bound keeps the cost of a round constant."""
FOLDED = (RunStarted, CandidateProposed, CandidateScreened, CandidateAnalyzed, ContextSampled)


class Member(Value):
    """One candidate as far as the log tells."""

    candidate: str
    program: Program
    parents: tuple[str, ...]
    proposer: str
    motivation: str
    status: Literal["proposed", "duplicate", "measured", "failed"] = "proposed"
    score: float | None = None
    fitness: float | None = None
    failure: FailureReason | None = None
    message: str = ""


class Population(State):
    """Every candidate of a run."""

    settings: RunSettings | None = None
    members: Map[str, Member] = Field(default_factory=empty)
    measured: Map[int, str] = Field(default_factory=empty)
    """Measured candidates in log order, counted from 0."""
    elite: tuple[str, ...] = ()
    """The leading candidates, best first; on equal fitness the first measured leads."""
    visits: Map[str, int] = Field(default_factory=empty)
    """How often each was chosen as a parent."""
    failures: int = 0
    duplicates: int = 0

    @property
    def best(self) -> Member | None:
        return self.members[self.elite[0]] if self.elite else None

    @property
    def baseline(self) -> Member | None:
        """The task's own program."""
        return self.members.get(BASELINE)

    def fitness(self, candidate: str) -> float:
        """Give the fitness of a measured candidate."""
        fitness = self.members[candidate].fitness
        assert fitness is not None
        return fitness

    def relatives(self, candidate: str) -> list[Member]:
        """List the measured parents of a candidate, then the baseline, without the candidate itself."""
        names = dict.fromkeys((*self.members[candidate].parents, BASELINE))
        found = (self.members.get(name) for name in names if name != candidate)
        return [member for member in found if member is not None and member.score is not None]


def step(population: Population, fact: Fact) -> Population:
    """Fold one fact. Pure and total."""
    match fact:
        case RunStarted(settings=settings):
            return population.evolve(settings=settings)
        case CandidateProposed():
            return _with(population, _proposed(fact))
        case CandidateScreened(candidate=candidate, verdict="duplicate"):
            member = population.members[candidate].model_copy(update={"status": "duplicate"})
            return _with(population, member).evolve(duplicates=population.duplicates + 1)
        case CandidateAnalyzed():
            return _analyzed(population, fact)
        case ContextSampled(parents=parents):
            visits = population.visits
            for choice in parents:
                visits = visits.insert(choice.candidate, visits.get(choice.candidate, 0) + 1)
            return population.evolve(visits=visits)
        case _:
            return population


def _proposed(fact: CandidateProposed) -> Member:
    return Member(
        candidate=fact.candidate,
        program=fact.program,
        parents=fact.parents,
        proposer=fact.proposer,
        motivation=fact.motivation,
    )


def _with(population: Population, member: Member) -> Population:
    return population.evolve(members=population.members.insert(member.candidate, member))


def _analyzed(population: Population, fact: CandidateAnalyzed) -> Population:
    assert population.settings is not None
    if fact.stage != population.settings.task.stages[0].name:
        return population
    changes = {
        "status": "measured" if fact.outcome == "measured" else "failed",
        "score": fact.score,
        "fitness": fact.fitness,
        "failure": fact.failure,
        "message": fact.message,
    }
    population = _with(population, population.members[fact.candidate].model_copy(update=changes))
    if fact.fitness is None:
        return population.evolve(failures=population.failures + 1)
    place = bisect.bisect_right(population.elite, -fact.fitness, key=lambda name: -population.fitness(name))
    elite = (*population.elite[:place], fact.candidate, *population.elite[place:])[:ELITE]
    measured = population.measured.insert(len(population.measured), fact.candidate)
    return population.evolve(elite=elite, measured=measured)
