"""The engineer's state: the run's settings and the programs that may still have to be measured."""

from pydantic import Field

from evolvent.folds import Fold, Map, State, empty
from evolvent.log import Record
from evolvent_schemas import CandidateAnalyzed, CandidateProposed, CandidateScreened, Fact, RunStarted
from evolvent_schemas.values import Program, RunSettings


class Orders(State):
    """What there is to measure."""

    settings: RunSettings | None = None
    programs: Map[str, Program] = Field(default_factory=empty)


def step(orders: Orders, record: Record[Fact]) -> Orders:
    """Fold one fact. Pure and total."""
    match record.fact:
        case RunStarted(settings=settings):
            return orders.evolve(settings=settings)
        case CandidateProposed(candidate=candidate, program=program):
            return orders.evolve(programs=orders.programs.insert(candidate, program))
        case CandidateScreened(candidate=candidate, verdict="duplicate") | CandidateAnalyzed(candidate=candidate):
            return orders.evolve(programs=orders.programs.discard(candidate))
        case _:
            return orders


FOLD = Fold(
    name="orders",
    version=1,
    state=Orders,
    facts=(RunStarted, CandidateProposed, CandidateScreened, CandidateAnalyzed),
    step=step,
)
