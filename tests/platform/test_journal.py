"""Effects: what was recorded is never asked again, whatever dies in between."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from evolvent.children import spawn
from evolvent.errors import CodeChanged, Halted, Permanent, Transient, Unrecorded
from evolvent.journal import Answer, EffectFailed, Effects
from evolvent.log import DEAD_STREAM, Log, Record
from evolvent.platform import Platform
from evolvent.settings import Settings
from evolvent_schemas import EffectRecorded, Fact, RoundExpired
from evolvent_schemas.values import Cost
from tests.platform.facts import expired, opened, sampled
from tests.platform.roles import failures, wait_for, working


class Oracle:
    """Something outside the log that counts how often it is asked."""

    def __init__(self, answer: Any = 42, error: Exception | None = None) -> None:
        self.answer, self.error, self.calls = answer, error, 0

    async def __call__(self) -> Answer:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return Answer(self.answer, Cost(usd=0.5, tokens=7))


@pytest.fixture
async def cause(log: Log) -> Record[Fact]:
    return await log.append(opened())


def effects(platform: Platform, cause: Record[Fact], **options: Any) -> Effects:
    return Effects(platform.log("researcher"), platform.artifacts, cause, **options)


async def test_an_answer_is_asked_for_once_and_booked(platform: Platform, log: Log, cause: Record[Fact]) -> None:
    oracle = Oracle()
    first = await effects(platform, cause).once("guess", {"q": 1}, oracle)
    again = await effects(platform, cause, delivery=2).once("guess", {"q": 1}, oracle)
    (recorded,) = [record.fact for record in await log.run("r1") if isinstance(record.fact, EffectRecorded)]

    assert 42 == first == again
    assert 1 == oracle.calls
    assert (1, 0.5, 7) == (recorded.delivery, recorded.cost.usd, recorded.cost.tokens)


async def test_a_large_answer_comes_back_whole(platform: Platform, cause: Record[Fact]) -> None:
    oracle = Oracle({"text": "x" * 700_000})
    await effects(platform, cause).once("guess", 1, oracle)

    assert oracle.answer == await effects(platform, cause).once("guess", 1, oracle)
    assert 1 == oracle.calls


async def test_a_final_failure_is_recorded_and_not_tried_again(platform: Platform, cause: Record[Fact]) -> None:
    oracle = Oracle(error=Permanent("refused by the provider"))
    for delivery in (1, 2):
        with pytest.raises(EffectFailed, match="refused by the provider"):
            await effects(platform, cause, delivery=delivery).once("guess", 1, oracle)

    assert 1 == oracle.calls


async def test_a_passing_fault_is_not_recorded(platform: Platform, cause: Record[Fact]) -> None:
    oracle = Oracle(error=Transient("busy"))
    with pytest.raises(Transient):
        await effects(platform, cause).once("guess", 1, oracle)
    oracle.error = None

    assert 42 == await effects(platform, cause).once("guess", 1, oracle)


async def test_another_request_under_a_recorded_name_is_changed_code(platform: Platform, cause: Record[Fact]) -> None:
    await effects(platform, cause).once("guess", {"q": 1}, Oracle())
    oracle = Oracle()
    with pytest.raises(CodeChanged):
        await effects(platform, cause).once("guess", {"q": 2}, oracle)

    assert 0 == oracle.calls


async def test_changed_code_ends_the_handling_with_that_reason(platform: Platform, log: Log) -> None:
    async def decide(cause: Record[Any], _state: Any, found: Effects) -> list[Fact]:
        for question in (1, 2):
            await found.once("guess", question, Oracle())
        return []

    async with working(platform, decide):
        await log.append(opened())
        failed = (await wait_for(log, "evo.r1.handling.failed.>")).fact

    assert ("code_changed", 1, "0") == (failed.reason, failed.deliveries, failed.round)


async def test_nothing_is_asked_for_a_halted_run(platform: Platform, cause: Record[Fact]) -> None:
    oracle = Oracle()
    with pytest.raises(Halted):
        await effects(platform, cause, halted=lambda: True).once("guess", 1, oracle)

    assert 0 == oracle.calls


async def test_a_replay_asks_nothing_and_writes_nothing(platform: Platform, log: Log, cause: Record[Fact]) -> None:
    oracle = Oracle()
    with pytest.raises(Unrecorded):
        await effects(platform, cause, live=False).once("guess", 1, oracle)
    with pytest.raises(Unrecorded):
        await effects(platform, cause, live=False).observe((expired().subject,), _observed)

    assert 0 == oracle.calls
    assert 1 == len(await log.run("r1"))


async def _observed() -> Fact:
    return expired(open_seconds=2.0)


async def test_an_observation_of_an_earlier_delivery_stands(platform: Platform, cause: Record[Fact]) -> None:
    async def later() -> Fact:
        raise AssertionError("asked again")

    await effects(platform, cause).observe((expired().subject,), _observed)
    stands = await effects(platform, cause, delivery=2).observe((expired().subject,), later)

    assert isinstance(stands, RoundExpired)
    assert 2.0 == stands.open_seconds


@contextlib.asynccontextmanager
async def restarted(settings: Settings, calls: Path, moment: str) -> AsyncIterator[None]:
    """Have the crashing role at work as a process, started again whenever it dies."""
    environment = os.environ | {
        "EVOLVENT_HOME": str(settings.home),
        "EVOLVENT_ACK_WAIT": str(settings.ack_wait),
        "EVOLVENT_MAX_DELIVERIES": "2",
    }

    async def keep() -> None:
        while True:
            process = await spawn(
                [sys.executable, "-m", "tests.platform.crashing", str(calls), moment], env=environment
            )
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_recorded_answer_survives_the_death_of_the_process(
    platform: Platform, log: Log, settings: Settings, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    async with restarted(settings, calls, "record"):
        await log.append(opened())
        answer = await wait_for(log, sampled().subject, within=30)

    assert 42 == answer.fact.pool
    assert ["1"] == calls.read_text().split()


async def test_a_call_that_was_cut_off_may_be_made_again_and_the_record_books_it(
    platform: Platform, log: Log, settings: Settings, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    async with restarted(settings, calls, "call"):
        await log.append(opened())
        await wait_for(log, sampled().subject, within=30)
    recorded = await wait_for(log, "evo.r1.effect.recorded.>")

    assert ["1", "2"] == calls.read_text().split()
    assert 2 == recorded.fact.delivery


async def test_a_message_that_kills_the_process_is_counted_and_given_up(
    platform: Platform, log: Log, settings: Settings, tmp_path: Path
) -> None:
    async with restarted(settings, tmp_path / "calls", "always"):
        await log.append(opened("0"))
        failed = (await wait_for(log, "evo.r1.handling.failed.>", within=40)).fact
        await log.append(opened("1"))
        await wait_for(log, sampled("1").subject, within=30)

    assert ("deliveries", 3, "0") == (failed.reason, failed.deliveries, failed.round)
    assert "2 deliveries ended without an answer" in failed.error
    assert 1 == len(await failures(log))
    assert 1 == (await platform.wire.api(f"STREAM.INFO.{DEAD_STREAM}"))["state"]["messages"]
