"""The simple port of the backend: one experiment in, one outcome out."""

import asyncio

import pytest

from evolvent_engineer.backend import Backend, Completed
from evolvent_engineer.backend import Failed as FailedOutcome
from tests.kubernetes.conftest import Begin
from tests.kubernetes.fake import Cluster, Script
from tests.kubernetes.orders import experiment
from tests.kubernetes.waiting import FOREVER, jobs, pods, running, until


async def test_evaluate_returns_what_the_pod_published_and_removes_the_job(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    outcome = await backend.evaluate(experiment())
    assert isinstance(outcome, Completed)
    assert 0.5 == outcome.score
    assert [] == jobs(cluster)


async def test_evaluate_names_a_failure(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", Script(oom="candidate"))
    outcome = await backend.evaluate(experiment())
    assert isinstance(outcome, FailedOutcome)
    assert ("memory_limit", "candidate") == (outcome.reason, outcome.blame)


async def test_a_cancelled_evaluation_leaves_nothing(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    task = asyncio.create_task(backend.evaluate(experiment()))
    await until(lambda: running(cluster))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not jobs(cluster) and not pods(cluster))


async def test_the_tier_is_that_of_a_hardened_job(begin: Begin) -> None:
    assert "T0" == (await begin()).tier


async def test_an_evaluation_of_a_halted_run_fails_without_blame(begin: Begin, cluster: Cluster) -> None:
    backend: Backend = (kubernetes := await begin())
    cluster.script("*", FOREVER)
    task = asyncio.create_task(backend.evaluate(experiment()))
    await until(lambda: running(cluster))
    await kubernetes.halt("r1")
    outcome = await task
    assert isinstance(outcome, FailedOutcome)
    assert ("infrastructure", "run r1 was halted") == (outcome.reason, outcome.message)


async def test_a_fault_of_our_own_reaches_whoever_waits(begin: Begin, cluster: Cluster) -> None:
    """A watch that dies of a bug may leave nobody waiting for ever."""
    backend = await begin()
    cluster.script("*", FOREVER)
    task = asyncio.create_task(backend.evaluate(experiment()))
    await until(lambda: running(cluster))
    backend._fail(KeyError("a bug"))
    with pytest.raises(KeyError):
        await task
    with pytest.raises(KeyError):
        await backend.evaluate(experiment(2))
