"""Which experiments a new engineer takes for open, from a real log."""

from typing import Any

import pytest

from evolvent.log import Log
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.open import unfinished
from evolvent_schemas import ExperimentCompleted, ExperimentFailed, ExperimentStarted, Fact, RunFinished
from tests.platform.facts import closed, halted

FIRST = Identity("r1", "1.0", "explore", 0, 0)
SEED = Identity("r1", "1.0", "explore", 1, 0)
ROUND = Identity("r1", "2.0", "explore", 0, 0)
RUN = Identity("r2", "1.0", "explore", 0, 0)
ALL = {FIRST, SEED, ROUND, RUN}


def keys(identity: Identity, attempt: int) -> dict[str, Any]:
    names = ("run", "candidate", "stage", "seed")
    return {name: getattr(identity, name) for name in names} | {"attempt": attempt}


def started(identity: Identity, attempt: int = 0, backend: str = "kubernetes") -> Fact:
    return ExperimentStarted.model_validate(keys(identity, attempt) | {"tier": "T0", "backend": backend})


def completed(identity: Identity, attempt: int = 0) -> Fact:
    costs = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "memory_mb": 1.0}
    return ExperimentCompleted.model_validate(keys(identity, attempt) | {"score": 1.0, "tier": "T0"} | costs)


def failed(identity: Identity, reason: str, blame: str, attempt: int = 0) -> Fact:
    told = {"reason": reason, "blame": blame, "message": "m", "wall_seconds": 1.0, "tier": "T0"}
    return ExperimentFailed.model_validate(keys(identity, attempt) | told)


def finished(run: str) -> Fact:
    return RunFinished(run=run, state="completed", message="", rounds_closed=1, rounds_failed=0)


async def found(log: Log, *facts: Fact) -> set[Identity]:
    for fact in facts:
        await log.append(fact)
    return await unfinished(log)


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (completed(FIRST), {SEED, ROUND, RUN}),
        (failed(FIRST, "crashed", "candidate"), {SEED, ROUND, RUN}),
        (failed(FIRST, "evaluator_crashed", "evaluator"), {SEED, ROUND, RUN}),
        (failed(FIRST, "infrastructure", "infrastructure"), ALL),
        (closed("1"), {ROUND, RUN}),
        (finished("r1"), {RUN}),
        (halted("r1"), {RUN}),
    ],
    ids=["completed", "candidate", "evaluator", "infrastructure", "round closed", "run finished", "run halted"],
)
async def test_an_end_closes_what_it_ends_and_nothing_beside_it(end: Fact, left: set[Identity], log: Log) -> None:
    """Whoever recorded a failure of the infrastructure may have died before the next try: that one closes nothing."""
    assert left == await found(log, *map(started, (FIRST, SEED, ROUND, RUN)), end)


async def test_the_last_try_of_a_measurement_stands_for_it(log: Log) -> None:
    lost = failed(FIRST, "infrastructure", "infrastructure")
    (last,) = await found(log, started(FIRST, 1), started(FIRST, 0), lost)
    assert (FIRST.key[:-1] + "1", "r1") == (last.key, last.run)


async def test_a_result_of_any_try_closes_the_measurement(log: Log) -> None:
    assert set() == await found(log, started(FIRST), started(FIRST, 1), completed(FIRST))


async def test_an_experiment_of_this_machine_is_no_job_of_the_cluster(log: Log) -> None:
    assert set() == await found(log, started(FIRST, backend="local"))
