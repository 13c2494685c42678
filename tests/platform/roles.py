"""A small role for tests: the researcher's consumer with a handler of the test's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from evolvent.folds import Fold, State
from evolvent.journal import Effects
from evolvent.log import Log, Record
from evolvent.platform import Platform
from evolvent.service import Runner, Service
from evolvent_schemas import Fact, HandlingFailed, RoundOpened

Decide = Callable[[Record[Any], Any, Effects], Awaitable[Sequence[Fact]]]


class Opened(State):
    """The rounds opened so far, in log order."""

    rounds: tuple[str, ...] = ()


def step(state: Opened, record: Record[Fact]) -> Opened:
    assert isinstance(record.fact, RoundOpened)
    return state.evolve(rounds=(*state.rounds, record.fact.round))


FOLD = Fold(name="opened", version=1, state=Opened, facts=(RoundOpened,), step=step)


def researcher(decide: Decide, **options: Any) -> Service[Opened]:
    return Service("researcher", FOLD, {RoundOpened: decide}, **options)


@contextlib.asynccontextmanager
async def working(platform: Platform, decide: Decide, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Have the role at work for as long as the block lasts."""
    runner = Runner(platform, researcher(decide, **options))
    running = asyncio.create_task(runner.run())
    try:
        yield running
    finally:
        runner.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def wait_for(log: Log, subject: str, within: float = 15.0) -> Record[Any]:
    """Wait until a subject holds its fact."""
    async with asyncio.timeout(within):
        async for record in log.follow([subject]):
            return record
    raise AssertionError(subject)


async def failures(log: Log, run: str = "r1") -> list[HandlingFailed]:
    return [record.fact for record in await log.run(run) if isinstance(record.fact, HandlingFailed)]
