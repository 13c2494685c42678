"""What the conductor does when a fact wakes it: store what the state machine made due."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from nats.aio.msg import Msg

from evolvent.clock import now
from evolvent.durable import Durable, acknowledge, retry_later
from evolvent.errors import EvolventError
from evolvent.history import Tail
from evolvent.journal import Effects
from evolvent.log import STREAM, Record
from evolvent.provision import OPEN_RUNS
from evolvent.service import Handler, Runner
from evolvent.wire import Delivery
from evolvent_conductor.life import FOLD, Life
from evolvent_schemas import Fact, RoundExpired, subjects
from evolvent_schemas.catalog import woken

TICK = 1.0
"""Seconds between two looks at the open rounds."""
_MOST_RUNS = 1000
"""Open runs that one replica watches; those beyond are another's, or wait, and their rounds too."""
logger = structlog.get_logger()


async def store_what_is_due(_cause: Record[Any], life: Life, _effects: Effects) -> Sequence[Fact]:
    return life.due


HANDLERS: dict[type[Fact], Handler] = dict.fromkeys(woken("conductor"), store_what_is_due)


async def watch_runs(runner: Runner[Life]) -> None:
    """Hold every open run, one replica each, and say so when one of its rounds is out of time.

    The start of a run stays unacknowledged until the run has finished: should this replica die, another is given it.

    Raises:
        ConsumerLost: the consumer was deleted.
    """
    watch, wire = partial(_watch, runner), runner.platform.wire
    ack_wait = runner.platform.settings.ack_wait
    await Durable(wire, STREAM, OPEN_RUNS, watch, concurrency=_MOST_RUNS, batch=1, ack_wait=ack_wait, patience=0).run()


async def _watch(runner: Runner[Life], started: Msg, _delivery: Delivery) -> None:
    run = subjects.parse(started.subject).run
    try:
        while await runner.log.read(subjects.fact(run, "run.finished")) is None:
            await _until_finished(runner, await runner.platform.tails.of(run))
    except EvolventError as error:
        await logger.awarning("run.unwatched", run=run, error=str(error))
        await retry_later(runner.platform.wire, started, TICK)
    else:
        await acknowledge(runner.platform.wire, started)


async def _until_finished(runner: Runner[Life], tail: Tail) -> None:
    while not tail.finished:
        tail.begin()
        await asyncio.sleep(TICK)
        await _expire(runner, tail)


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


__all__ = ["FOLD", "HANDLERS", "watch_runs"]
