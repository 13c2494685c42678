"""Small facts to append in tests."""

from typing import Any

from evolvent_schemas import ContextSampled, RoundClosed, RoundExpired, RoundOpened, RunHalted
from evolvent_schemas.values import Grant


def sampled(round: str = "0", pool: int = 0, run: str = "r1") -> ContextSampled:  # noqa: A002
    return ContextSampled(run=run, round=round, parents=(), sampler="random", seed=1, pool=pool)


def expired(round: str = "0", open_seconds: float = 1.0) -> RoundExpired:  # noqa: A002
    return RoundExpired(run="r1", round=round, open_seconds=open_seconds)


def closed(round: str = "0", outcome: Any = "completed", run: str = "r1") -> RoundClosed:  # noqa: A002
    return RoundClosed(run=run, round=round, outcome=outcome)


def opened(round: str = "0", run: str = "r1") -> RoundOpened:  # noqa: A002
    return RoundOpened(run=run, round=round, grant=Grant(attempts=1, compute_seconds=1.0))


def halted(run: str = "r1") -> RunHalted:
    return RunHalted(run=run, reason="enough")
