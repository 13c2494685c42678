"""The researcher's state: the population, and what its open rounds have been given."""

from pydantic import Field

from evolvent import population
from evolvent.folds import Fold, Map, empty
from evolvent.log import Record
from evolvent.population import Population
from evolvent_schemas import (
    ContextSampled,
    Fact,
    KnowledgeRetrieved,
    RoundClosed,
    RoundOpened,
)
from evolvent_schemas.values import Grant, Retrieved, Value


class Desk(Value):
    """What lies before the designer of one round."""

    grant: Grant
    submitted: bool = False
    parents: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    found: tuple[Retrieved, ...] = ()


class Studio(Population):
    """The population, and a desk for each open round."""

    desks: Map[str, Desk] = Field(default_factory=empty)


def step(studio: Studio, record: Record[Fact]) -> Studio:
    """Fold one fact. Pure and total."""
    match record.fact:
        case RoundOpened() as opened:
            return _lay(studio, opened.round, Desk(grant=opened.grant, submitted=opened.submission is not None))
        case ContextSampled(round=number) as sampled if number in studio.desks:
            parents = tuple(choice.candidate for choice in sampled.parents)
            references = tuple(choice.candidate for choice in sampled.references)
            desk = studio.desks[number].model_copy(update={"parents": parents, "references": references})
            return _counted(_lay(studio, number, desk), sampled)
        case KnowledgeRetrieved(round=number, found=found) if number in studio.desks:
            return _lay(studio, number, studio.desks[number].model_copy(update={"found": found}))
        case RoundClosed(round=number):
            return studio.evolve(desks=studio.desks.discard(number))
        case fact:
            return _counted(studio, fact)


def _lay(studio: Studio, number: str, desk: Desk) -> Studio:
    return studio.evolve(desks=studio.desks.insert(number, desk))


def _counted(studio: Studio, fact: Fact) -> Studio:
    after = population.step(studio, fact)
    assert isinstance(after, Studio)
    return after


FOLD = Fold(
    name="studio",
    version=1,
    state=Studio,
    facts=(*population.FOLDED, RoundOpened, RoundClosed, KnowledgeRetrieved),
    step=step,
)
