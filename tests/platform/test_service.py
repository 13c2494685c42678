"""What the runner does with a fact, whatever its handler does."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest

from evolvent.embedded import Server
from evolvent.errors import ConsumerLost, Permanent, Refused, Rejected, Transient
from evolvent.journal import Effects
from evolvent.log import DEAD_STREAM, STREAM, Log, Record
from evolvent.platform import Platform
from evolvent.provision import provision
from evolvent.settings import Settings
from evolvent.wire import Code, Message
from evolvent_schemas import Fact, RoundOpened
from tests.platform.facts import halted, opened, sampled
from tests.platform.roles import Opened, failures, wait_for, working


class Calls:
    """A handler that remembers when it was called, and answers each round with its context."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.rounds: list[str] = []

    async def __call__(self, cause: Record[RoundOpened], _state: Opened, _effects: Effects) -> Sequence[Fact]:
        self.times.append(time.monotonic())
        self.rounds.append(cause.fact.round)
        await self.work(cause)
        return [sampled(cause.fact.round)]

    async def work(self, cause: Record[RoundOpened]) -> None:
        """Do nothing; tests put something here."""

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]


class Raising(Calls):
    """Raises on the rounds it is told, and works on every other."""

    def __init__(self, error: Exception, rounds: tuple[str, ...] = ("0",), times: int = 1000) -> None:
        super().__init__()
        self.error, self.bad, self.left = error, rounds, times

    async def work(self, cause: Record[RoundOpened]) -> None:
        if cause.fact.round in self.bad and self.left > 0:
            self.left -= 1
            raise self.error


async def _dead(platform: Platform, role: str = "researcher") -> list[Message]:
    info = await platform.wire.api(f"STREAM.INFO.{DEAD_STREAM}", {"subjects_filter": f"dead.{role}.>"})
    subjects = info["state"].get("subjects", {})
    found = [await platform.wire.last(DEAD_STREAM, subject) for subject in subjects]
    return [message for message in found if message is not None]


async def test_a_fact_is_handled_and_its_answer_is_caused_by_it(platform: Platform, log: Log) -> None:
    async with working(platform, Calls()):
        cause = await log.append(opened())
        answer = await wait_for(log, sampled().subject)

    assert cause.id == answer.cause
    assert "evolvent/researcher" == answer.source


async def test_a_handler_that_raises_is_tried_again_later_and_later_and_then_given_up(
    platform: Platform, log: Log, settings: Settings
) -> None:
    handler = Raising(RuntimeError("a bug"))
    async with working(platform, handler):
        await log.append(opened("0"))
        cause = await log.append(opened("1"))
        failed = (await wait_for(log, "evo.r1.handling.failed.>")).fact
        await wait_for(log, sampled("1").subject)
    tries = [at for at, number in zip(handler.times, handler.rounds, strict=True) if number == "0"]
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]

    assert ("deliveries", 5, "0") == (failed.reason, failed.deliveries, failed.round)
    assert "a bug" in failed.error
    assert 5 == len(tries)
    assert all(pause >= settings.retry_delay * 2**n for n, pause in enumerate(pauses)), pauses
    assert cause.fact.round == "1"


async def test_what_is_given_up_is_kept_with_its_original_bytes_and_the_reason(platform: Platform, log: Log) -> None:
    async with working(platform, Raising(Permanent("cannot be done"))):
        record = await log.append(opened())
        await wait_for(log, "evo.r1.handling.failed.>")
    (dead,) = await _dead(platform)

    assert opened().body() == dead.data
    assert str(record.id) == dead.headers["ce-id"]
    assert record.fact.subject == dead.headers["Evolvent-Subject"]
    assert "cannot be done" in dead.headers["Evolvent-Reason"]


async def test_a_permanent_error_is_given_up_at_once(platform: Platform, log: Log) -> None:
    handler = Raising(Permanent("no"))
    async with working(platform, handler):
        await log.append(opened())
        failed = (await wait_for(log, "evo.r1.handling.failed.>")).fact
        await asyncio.sleep(1.5)

    assert ("permanent", 1) == (failed.reason, failed.deliveries)
    assert ["0"] == handler.rounds


async def test_a_passing_fault_comes_back_after_its_own_delay(platform: Platform, log: Log) -> None:
    handler = Raising(Transient("busy", delay=0.6), times=1)
    async with working(platform, handler):
        await log.append(opened())
        await wait_for(log, sampled().subject)

    assert 2 == len(handler.times)
    assert 0.6 <= handler.pauses[0] < 2.0
    assert [] == await failures(log)


async def test_a_passing_fault_that_lasts_is_given_up_at_the_last_delivery_and_named(
    platform: Platform, log: Log, settings: Settings
) -> None:
    handler = Raising(Transient("the model is away", delay=0.05))
    async with working(platform, handler):
        await log.append(opened("0"))
        failed = (await wait_for(log, "evo.r1.handling.failed.>")).fact

    assert ("deliveries", settings.max_deliveries) == (failed.reason, failed.deliveries)
    assert failed.error.endswith("the last with: the model is away")
    assert settings.max_deliveries == len(handler.times)
    assert 1 == len(await _dead(platform))


@pytest.mark.parametrize(
    "subject",
    ["evo.r1.round.opened.0", "evo.r1.round.opened.007", "evo.-.round.opened.0", "evo.r1.round.opened." + "9" * 40],
)
async def test_bytes_that_are_no_fact_are_buried_and_the_role_goes_on(
    platform: Platform, log: Log, subject: str
) -> None:
    async with working(platform, Calls()):
        await platform.wire.publish(subject, b"\xff\x00 not JSON", {})
        await log.append(opened("1"))
        await wait_for(log, sampled("1").subject)
        await _settled(platform, within=3.0)
        dead = await _dead(platform)

    assert [b"\xff\x00 not JSON"] == [message.data for message in dead]


async def test_a_fact_without_its_envelope_is_a_failed_one(platform: Platform, log: Log) -> None:
    async with working(platform, Calls()):
        await platform.wire.publish(opened().subject, opened().body(), {})
        failed = (await wait_for(log, "evo.r1.handling.failed.>")).fact

    assert ("schema", "seq-1", "0") == (failed.reason, failed.cause, failed.round)


async def test_a_long_handler_is_not_given_to_another(platform: Platform, log: Log, settings: Settings) -> None:
    class Long(Calls):
        async def work(self, cause: Record[RoundOpened]) -> None:
            await asyncio.sleep(2.5 * settings.ack_wait)

    first, second = Long(), Long()
    async with working(platform, first), working(platform, second):
        await log.append(opened())
        await wait_for(log, sampled().subject)

    assert 1 == len(first.times + second.times)


async def test_a_halt_cuts_off_a_long_handler(platform: Platform, log: Log) -> None:
    cut: list[str] = []

    async def endless(cause: Record[RoundOpened], _state: Opened, _effects: Effects) -> Sequence[Fact]:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cut.append(cause.fact.round)
            raise
        return []

    async with working(platform, endless):
        await log.append(opened())
        await asyncio.sleep(0.5)
        await log.append(halted())
        await _settled(platform, within=3.0)

    assert ["0"] == cut
    assert [] == await failures(log)


async def _settled(platform: Platform, within: float) -> None:
    """Wait until nothing waits for the role or is in its hands."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        info = await platform.wire.api(f"CONSUMER.INFO.{STREAM}.researcher")
        if info["num_ack_pending"] + info["num_pending"] == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"still at work after {within} s")


async def test_a_full_log_pauses_the_role_and_it_goes_on_by_itself(
    platform: Platform, log: Log, settings: Settings, said: list[Any]
) -> None:
    held = asyncio.Event()

    class Waiting(Calls):
        async def work(self, cause: Record[RoundOpened]) -> None:
            await held.wait()

    await provision(platform.wire, settings.model_copy(update={"log_max_bytes": 6_000}))
    async with working(platform, Waiting()):
        await log.append(opened("0"))
        await _fill_up(platform)
        held.set()
        await asyncio.sleep(3 * settings.ack_wait)
        assert await log.read(sampled("0").subject) is None
        await provision(platform.wire, settings)
        answer = await wait_for(log, sampled("0").subject)

    assert [] == await failures(log)
    assert [] == await _dead(platform)
    assert "log.full" in {line["event"] for line in said}
    assert "evolvent/researcher" == answer.source


async def _fill_up(platform: Platform) -> None:
    for n in range(1000):
        try:
            await platform.wire.publish(f"evo.r2.round.closed.{n}", b"x" * 50, {})
        except Rejected as error:
            assert Code.INSUFFICIENT_STORAGE == error.code
            return


async def test_a_deleted_consumer_ends_the_role_within_three_heartbeats(platform: Platform, log: Log) -> None:
    async with working(platform, Calls()) as running:
        await log.append(opened())
        await wait_for(log, sampled().subject)
        await platform.wire.api(f"CONSUMER.DELETE.{STREAM}.researcher")
        with pytest.raises(ConsumerLost, match="doctor --repair"):
            async with asyncio.timeout(3 * 2.0):
                await running


async def test_a_consumer_deleted_while_nobody_looked_ends_the_role(
    platform: Platform, log: Log, server: Server
) -> None:
    await platform.wire.api(f"CONSUMER.DELETE.{STREAM}.researcher")
    async with working(platform, Calls()) as running:
        with pytest.raises(ConsumerLost):
            async with asyncio.timeout(3 * 2.0):
                await running


async def test_a_role_works_on_after_the_server_was_killed(platform: Platform, log: Log, server: Server) -> None:
    assert server.process is not None
    async with working(platform, Calls()):
        await log.append(opened("0"))
        await wait_for(log, sampled("0").subject)
        server.process.kill()
        await log.append(opened("1"))
        await wait_for(log, sampled("1").subject)

    assert [] == await failures(log)


async def test_two_replicas_share_the_work_and_store_each_answer_once(platform: Platform, log: Log) -> None:
    first, second = Calls(), Calls()
    async with working(platform, first, concurrency=2), working(platform, second, concurrency=2):
        for n in range(60):
            await log.append(opened(str(n)))
        await _settled(platform, within=20.0)

    assert 120 == len(await log.run("r1"))
    assert {str(n) for n in range(60)} == {*first.rounds, *second.rounds}
    assert first.rounds
    assert second.rounds


async def test_an_outcome_that_the_handler_refuses_to_decide_is_named(platform: Platform, log: Log) -> None:
    """An error of ours that is neither passing nor permanent is a handler's bug like any other."""
    async with working(platform, Raising(Refused("a path leads out of it"))):
        await log.append(opened())
        failed: Any = (await wait_for(log, "evo.r1.handling.failed.>")).fact

    assert "a path leads out of it" in failed.error


async def test_a_fact_delivered_again_while_it_is_in_work_is_not_begun_twice(
    platform: Platform, log: Log, settings: Settings
) -> None:
    """A process that could not say in time that it is at work is sent the same fact once more."""

    class Frozen(Calls):
        async def work(self, cause: Record[RoundOpened]) -> None:
            time.sleep(2.2 * settings.ack_wait)  # noqa: ASYNC251 - freezing the process is the fault
            await asyncio.sleep(settings.ack_wait)

    handler = Frozen()
    async with working(platform, handler):
        await log.append(opened())
        await wait_for(log, sampled().subject)
        await _settled(platform, within=5.0)

    assert 1 == len(handler.times)
