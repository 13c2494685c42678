"""The append rules of the log, against a real server."""

import asyncio
from uuid import uuid4

import pytest

from evolvent.errors import Conflict, Diverged
from evolvent.log import Log
from evolvent_schemas import ROOT, ContextSampled, RoundClosed, RoundExpired
from tests.platform.facts import closed, expired, sampled


async def test_a_decision_is_stored_once_and_again_is_done(log: Log) -> None:
    first = await log.append(sampled(), cause=ROOT)
    again = await log.append(sampled(), cause=ROOT)

    assert first.id == again.id
    assert first.sequence == again.sequence
    assert 1 == len(await log.run("r1"))


async def test_the_same_decision_with_another_body_is_alarmed(log: Log) -> None:
    await log.append(sampled(pool=1), cause=ROOT)

    with pytest.raises(Diverged):
        await log.append(sampled(pool=2), cause=ROOT)


async def test_a_decision_by_another_cause_is_a_permanent_error(log: Log) -> None:
    await log.append(sampled(), cause=uuid4())

    with pytest.raises(Conflict):
        await log.append(sampled(), cause=uuid4())


async def test_the_first_observation_stands_and_the_loser_goes_on_with_it(log: Log) -> None:
    await log.append(expired(open_seconds=1.0), cause=uuid4())
    stands = await log.append(expired(open_seconds=2.0), cause=uuid4())

    assert isinstance(stands.fact, RoundExpired)
    assert 1.0 == stands.fact.open_seconds


async def test_the_first_cause_of_a_claim_stands(log: Log) -> None:
    first, second = uuid4(), uuid4()
    await log.append(closed(outcome="completed"), cause=first)
    stands = await log.append(closed(outcome="expired"), cause=second)

    assert first == stands.cause
    assert isinstance(stands.fact, RoundClosed)
    assert "completed" == stands.fact.outcome


async def test_of_racing_writers_exactly_one_wins(log: Log) -> None:
    results = await asyncio.gather(*(log.append(closed(), cause=uuid4()) for _ in range(20)))

    assert 1 == len({record.id for record in results})
    assert 1 == len(await log.run("r1"))


async def test_what_is_read_equals_what_was_appended(log: Log) -> None:
    written = await log.append(sampled(), cause=ROOT)
    read = await log.read(sampled().subject)

    assert read is not None
    assert isinstance(read.fact, ContextSampled)
    assert (written.fact, written.id, written.cause) == (read.fact, read.id, read.cause)
