"""The researcher's state: the population, what its open rounds have been given, and how its models have done."""

from pydantic import Field

from evolvent import population
from evolvent.folds import Fold, Map, empty
from evolvent.log import Record
from evolvent.models.bandit import Arm, choose, finished, started
from evolvent.population import Population
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    CandidateScreened,
    ContextSampled,
    Fact,
    KnowledgeRetrieved,
    RoundClosed,
    RoundExhausted,
    RoundOpened,
    RunStarted,
    RunSteered,
)
from evolvent_schemas.values import Cost, Grant, ModelCall, Retrieved, Value

LLM = "llm/"
"""How the proposer of a program begins that a model designed."""


class Desk(Value):
    """What lies before the designer of one round."""

    grant: Grant
    submitted: bool = False
    parents: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    found: tuple[Retrieved, ...] = ()
    cost: Cost = Cost()
    """What the round's proposals have cost so far."""
    model: str = ""
    """Which model designs next; none without models."""


class Studio(Population):
    """The population, a desk for each open round, and the bandit that chooses between models.

    A model is chosen, and the choice counted, where the fact that asks for a design is folded: so rounds that are open
    at once count each other, and a call that comes to nothing counts as well.
    """

    desks: Map[str, Desk] = Field(default_factory=empty)
    steering: tuple[str, ...] = ()
    arms: dict[str, Arm] = Field(default_factory=dict)


def step(studio: Studio, record: Record[Fact]) -> Studio:  # noqa: C901 - one arm for each fact
    """Fold one fact. Pure and total."""
    match record.fact:
        case RunStarted(settings=settings) as begun:
            arms = {model: Arm() for model in settings.models} if settings.proposer == "llm" else {}
            return _counted(studio, begun).evolve(arms=arms)
        case RunSteered(text=text):
            return studio.evolve(steering=(*studio.steering, text))
        case RoundOpened() as opened:
            return _lay(studio, opened.round, Desk(grant=opened.grant, submitted=opened.submission is not None))
        case ContextSampled(round=number) as sampled if number in studio.desks:
            parents = tuple(choice.candidate for choice in sampled.parents)
            references = tuple(choice.candidate for choice in sampled.references)
            desk = studio.desks[number].model_copy(update={"parents": parents, "references": references})
            return _counted(_lay(studio, number, desk), sampled)
        case KnowledgeRetrieved(round=number, found=found) if number in studio.desks:
            return _turn(_lay(studio, number, studio.desks[number].model_copy(update={"found": found})), number)
        case CandidateProposed() as proposed:
            return _counted(_paid(studio, proposed), proposed)
        case CandidateScreened(verdict="duplicate") as screened:
            return _turn(_counted(studio, screened), screened.candidate.partition(".")[0])
        case CandidateAnalyzed() as analyzed:
            return _gained(_counted(studio, analyzed), analyzed)
        case RoundExhausted(calls=calls):
            return studio.evolve(arms=_booked(studio, calls))
        case RoundClosed(round=number):
            return studio.evolve(desks=studio.desks.discard(number))
        case fact:
            return _counted(studio, fact)


def _turn(studio: Studio, number: str) -> Studio:
    """Choose who designs next in a round."""
    if not studio.arms or number not in studio.desks:
        return studio
    assert studio.settings is not None
    model = choose(studio.arms, per=studio.settings.weigh_models)
    desk = studio.desks[number].model_copy(update={"model": model})
    return _lay(studio, number, desk).evolve(arms=started(studio.arms, model))


def _paid(studio: Studio, proposed: CandidateProposed) -> Studio:
    number = proposed.candidate.partition(".")[0]
    desk = studio.desks.get(number)
    if desk is None or not proposed.calls:
        return studio
    desk = desk.model_copy(update={"cost": desk.cost + proposed.cost})
    return _lay(studio, number, desk).evolve(arms=_booked(studio, proposed.calls))


def _booked(studio: Studio, calls: tuple[ModelCall, ...]) -> dict[str, Arm]:
    """Book what calls have cost, and the choices that one handler made after the first."""
    arms = studio.arms
    for call in calls:
        arms = finished(arms, call.model, improvement=0.0, usd=call.cost.usd)
    for call in [call for call in calls if call.purpose == "design"][1:]:
        arms = started(arms, call.model)
    return dict(arms)


def _gained(studio: Studio, analyzed: CandidateAnalyzed) -> Studio:
    """Book the improvement over the first parent to the model that designed the program."""
    member = studio.members[analyzed.candidate]
    if not member.proposer.startswith(LLM) or not member.parents or member.fitness is None:
        return studio
    gain = member.fitness - (studio.members[member.parents[0]].fitness or 0.0)
    model = member.proposer.removeprefix(LLM)
    return studio.evolve(arms=finished(studio.arms, model, improvement=gain))


def _lay(studio: Studio, number: str, desk: Desk) -> Studio:
    return studio.evolve(desks=studio.desks.insert(number, desk))


def _counted(studio: Studio, fact: Fact) -> Studio:
    after = population.step(studio, fact)
    assert isinstance(after, Studio)
    return after


FOLD = Fold(
    name="studio",
    version=2,
    state=Studio,
    facts=(*population.FOLDED, RunSteered, RoundOpened, RoundExhausted, RoundClosed, KnowledgeRetrieved),
    step=step,
)
