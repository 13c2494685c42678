"""A run in a few numbers: a fold for people and scripts, the same for every command."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from evolvent import population
from evolvent.folds import Fold, Map, empty
from evolvent.log import Record
from evolvent.population import Population
from evolvent_schemas import (
    Fact,
    RoundClosed,
    RoundOpened,
    RunFinished,
    RunHalted,
    RunPaused,
    RunResumed,
    RunStarted,
)
from evolvent_schemas.values import Cost

RunState = Literal["unknown", "running", "paused", "completed", "budget", "halted", "failed"]


class Summary(Population):
    """What there is to say about a run."""

    run: str = ""
    state: RunState = "unknown"
    message: str = ""
    started: datetime | None = None
    last: datetime | None = None
    open: Map[str, bool] = Field(default_factory=empty)
    closed: int = 0
    failed: int = 0
    cost: Cost = Cost()

    @property
    def ended(self) -> bool:
        return self.state not in {"unknown", "running", "paused"}


def step(summary: Summary, record: Record[Fact]) -> Summary:
    """Fold one fact. Pure and total."""
    after = population.step(summary, record.fact)
    assert isinstance(after, Summary)
    return _lived(after, record).evolve(last=record.time)


def _lived(summary: Summary, record: Record[Fact]) -> Summary:
    match record.fact:
        case RunStarted(run=run):
            return summary.evolve(run=run, state="running", started=record.time)
        case RunPaused(message=message):
            return summary.evolve(state="paused", message=message)
        case RunResumed():
            return summary.evolve(state="running", message="")
        case RunHalted(reason=reason):
            return summary.evolve(state="halted", message=reason)
        case RunFinished(state=state, message=message, cost=cost):
            return summary.evolve(state=state, message=message, cost=cost, open=empty())
        case RoundOpened(round=number):
            return summary.evolve(open=summary.open.insert(number, True))
        case RoundClosed() as closed:
            return _closed(summary, closed)
        case _:
            return summary


def _closed(summary: Summary, closed: RoundClosed) -> Summary:
    of_ring = not closed.round.startswith("h")
    return summary.evolve(
        open=summary.open.discard(closed.round),
        closed=summary.closed + of_ring,
        failed=summary.failed + (of_ring and closed.outcome != "completed"),
        cost=summary.cost + closed.cost,
    )


FOLD = Fold(
    name="summary",
    version=1,
    state=Summary,
    facts=(*population.FOLDED, RunPaused, RunResumed, RunHalted, RunFinished, RoundOpened, RoundClosed),
    step=step,
)
