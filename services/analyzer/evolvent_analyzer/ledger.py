"""The analyzer's state: the population, and the outcomes of experiments that are not analyzed yet."""

from pydantic import Field

from evolvent import population
from evolvent.folds import Fold, Map, empty
from evolvent.log import Record
from evolvent.population import Population
from evolvent_schemas import (
    CandidateProposed,
    ExperimentCompleted,
    ExperimentFailed,
    Fact,
    RoundClosed,
    RoundOpened,
)
from evolvent_schemas.values import Cost, FailureReason, Grant, Prediction, Value


class Outcome(Value):
    """What one seed gave."""

    attempt: int = 0
    """Which try gave it; a later one that also ended changes nothing."""
    score: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    failure: FailureReason | None = None
    message: str = ""
    wall_seconds: float


class Account(Value):
    """What an open round was granted, and what its proposals have cost."""

    grant: Grant
    cost: Cost = Cost()


class Ledger(Population):
    """The population, with the outcomes of each open stage, the predictions made and the open rounds' accounts."""

    outcomes: Map[str, dict[int, Outcome]] = Field(default_factory=empty)
    """By `<candidate>.<stage>`, then by seed."""
    predictions: Map[str, Prediction] = Field(default_factory=empty)
    accounts: Map[str, Account] = Field(default_factory=empty)


def step(ledger: Ledger, record: Record[Fact]) -> Ledger:
    """Fold one fact. Pure and total."""
    match record.fact:
        case ExperimentCompleted() as fact:
            outcome = Outcome(score=fact.score, metrics=fact.metrics, wall_seconds=fact.wall_seconds)
            return _noted(ledger, fact, outcome)
        case ExperimentFailed(blame="infrastructure"):
            return ledger
        case ExperimentFailed() as fact:
            return _noted(
                ledger, fact, Outcome(failure=fact.reason, message=fact.message, wall_seconds=fact.wall_seconds)
            )
        case RoundOpened(round=number, grant=grant):
            return ledger.evolve(accounts=ledger.accounts.insert(number, Account(grant=grant)))
        case RoundClosed(round=number):
            return ledger.evolve(accounts=ledger.accounts.discard(number))
        case CandidateProposed() as proposed:
            ledger = _proposed(ledger, proposed)
    after = population.step(ledger, record.fact)
    assert isinstance(after, Ledger)
    return after


def _proposed(ledger: Ledger, proposed: CandidateProposed) -> Ledger:
    if proposed.prediction is not None:
        ledger = ledger.evolve(predictions=ledger.predictions.insert(proposed.candidate, proposed.prediction))
    number = proposed.candidate.partition(".")[0]
    account = ledger.accounts.get(number)
    if account is None:
        return ledger
    account = account.model_copy(update={"cost": account.cost + proposed.cost})
    return ledger.evolve(accounts=ledger.accounts.insert(number, account))


def _noted(ledger: Ledger, fact: ExperimentCompleted | ExperimentFailed, outcome: Outcome) -> Ledger:
    key = f"{fact.candidate}.{fact.stage}"
    outcome = outcome.model_copy(update={"attempt": fact.attempt})
    noted = {fact.seed: outcome, **ledger.outcomes.get(key, {})}  # the first outcome of a seed stands
    return ledger.evolve(outcomes=ledger.outcomes.insert(key, noted))


FOLD = Fold(
    name="ledger",
    version=3,
    state=Ledger,
    facts=(*population.FOLDED, RoundOpened, RoundClosed, ExperimentCompleted, ExperimentFailed),
    step=step,
)
