"""What the conductor does when a fact wakes it: store what the state machine made due."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from evolvent.clock import now
from evolvent.errors import EvolventError
from evolvent.history import Tail
from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.service import Handler, Runner
from evolvent_conductor.life import FOLD, Life
from evolvent_schemas import Fact, RoundExpired, RunFinished, RunStarted, filter_for
from evolvent_schemas.catalog import woken

TICK = 1.0
"""Seconds between two looks at the open rounds."""
logger = structlog.get_logger()


async def store_what_is_due(_cause: Record[Any], life: Life, _effects: Effects) -> Sequence[Fact]:
    return life.due


HANDLERS: dict[type[Fact], Handler] = dict.fromkeys(woken("conductor"), store_what_is_due)


async def expire_rounds(runner: Runner[Life]) -> None:
    """Watch the open rounds of every unfinished run and say so when one is out of time. Any replica may."""
    watching = asyncio.create_task(_find_runs(runner))
    try:
        while True:
            await asyncio.sleep(TICK)
            if watching.done() and (error := watching.exception()):
                await logger.awarning("runs.unknown", error=str(error))
                watching = asyncio.create_task(_find_runs(runner))
            for tail in runner.platform.tails.open():
                await _expire(runner, tail)
    finally:
        watching.cancel()


async def _find_runs(runner: Runner[Life]) -> None:
    """Begin the history of each run that has started and not finished, those of an earlier process included."""
    finished = set()
    async for record in runner.log.follow([filter_for(RunFinished)], until=await runner.log.end()):
        finished.add(record.fact.run)
    async for record in runner.log.follow([filter_for(RunStarted)]):
        if record.fact.run not in finished:
            (await runner.platform.tails.of(record.fact.run)).begin()


async def _expire(runner: Runner[Life], tail: Tail) -> None:
    life: Life = tail.histories[FOLD.name].latest
    if life.settings is None:
        return
    for number, token in life.open.items():
        seconds = (now() - token.since).total_seconds()
        if seconds > life.settings.round_seconds:
            try:
                await runner.log.append(RoundExpired(run=life.run, round=number, open_seconds=seconds))
            except EvolventError as error:
                await logger.awarning("round.expiry_delayed", run=life.run, round=number, error=str(error))


__all__ = ["FOLD", "HANDLERS", "expire_rounds"]
