"""Run one role: deliver the facts that wake it to its handlers, store what they decide, acknowledge."""

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog
from nats.aio.msg import Msg

from evolvent.artifacts import Artifacts
from evolvent.durable import Durable, acknowledge, retry_later, terminate
from evolvent.ending import end
from evolvent.errors import Halted, Permanent, SchemaError, StreamFull, Transient
from evolvent.folds import Fold, State
from evolvent.history import Tail
from evolvent.journal import Effects
from evolvent.log import STREAM, Log, Record
from evolvent.platform import Platform
from evolvent.wire import Delivery
from evolvent_schemas import EffectRecorded, Fact, HandlingFailed, subjects
from evolvent_schemas.values import Cost

S = TypeVar("S", bound=State)
Handler = Callable[[Record[Any], Any, Effects], Awaitable[Sequence[Fact]]]
"""`decide(cause, state at the cause, effects)`; the facts it returns are appended in order."""
FULL_PAUSE = 2.0
"""Seconds between tries while the log is full."""
logger = structlog.get_logger()


@dataclass(frozen=True)
class Service(Generic[S]):
    """A role: what it folds and how it answers each fact that wakes it."""

    role: str
    fold: Fold[S]
    handlers: Mapping[type[Fact], Handler]
    concurrency: int = 8
    """Facts handled at once by one replica."""
    heeds_halt: bool = True
    """Whether its work on a halted run is cut off; the conductor's is not."""
    background: Callable[["Runner[S]"], Awaitable[None]] | None = None
    """What the role does unasked; it goes on until it is cancelled, and when it fails the role stops."""
    running: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext
    """What must be open while the role works and not while its decisions are only replayed."""

    def __post_init__(self) -> None:
        unfolded = {cls.__name__ for cls in self.handlers} - {cls.__name__ for cls in self.fold.facts}
        if unfolded:
            raise TypeError(f"{self.role} is woken by {sorted(unfolded)} but does not fold them")


@dataclass
class Runner(Generic[S]):
    """One replica of a role at work."""

    platform: Platform
    service: Service[S]
    log: Log = field(init=False)
    artifacts: Artifacts = field(init=False)
    _durable: Durable = field(init=False)

    def __post_init__(self) -> None:
        self.log = Log(self.platform.wire, self.service.role)
        self.artifacts = self.platform.artifacts
        self.platform.tails.register(self.service.fold)
        self._durable = Durable(
            self.platform.wire,
            STREAM,
            self.service.role,
            self._deliver,
            concurrency=self.service.concurrency,
            ack_wait=self.platform.settings.ack_wait,
        )

    def stop(self) -> None:
        """Take no new fact; those in work are finished."""
        self._durable.stop()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            ConsumerLost: the role's durable consumer was deleted.
            EvolventError: what the role does unasked cannot go on.
        """
        async with self.service.running():
            await self._work()

    async def _work(self) -> None:
        background = self.service.background(self) if self.service.background else asyncio.Event().wait()
        asked, unasked = asyncio.ensure_future(self._durable.run()), asyncio.ensure_future(background)
        await logger.ainfo("service.started", role=self.service.role)
        try:
            await asyncio.wait({asked, unasked}, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await asked
            if unasked.done():
                unasked.result()
        finally:
            await end(asked, unasked)
            await logger.ainfo("service.stopped", role=self.service.role)

    async def _deliver(self, message: Msg, delivery: Delivery) -> None:
        """Deal with one message, whatever it is; while the log is full, hold it and try again."""
        while True:
            try:
                await self._take(message, delivery)
            except StreamFull as error:
                await logger.aerror("log.full", role=self.service.role, error=str(error))
                await asyncio.sleep(FULL_PAUSE)
            except Transient as error:
                await logger.awarning("handling.delayed", error=str(error), delay=error.delay)
                await retry_later(self.platform.wire, message, error.delay)
                return
            else:
                return

    async def _take(self, message: Msg, delivery: Delivery) -> None:
        wire, limit = self.platform.wire, self.platform.settings.max_deliveries
        try:
            record = Record.read(message.subject, message.headers, message.data, delivery.stream_sequence)
        except SchemaError as error:
            await self._give_up(message, delivery, error.reason, str(error), None)
            return
        with structlog.contextvars.bound_contextvars(**_bound(record)):
            if delivery.delivered > limit:
                reason = f"{delivery.delivered - 1} deliveries ended without an answer"
                await self._give_up(message, delivery, "deliveries", reason, record)
                return
            try:
                await self._handle(record, delivery.delivered)
            except Permanent as error:
                await self._give_up(message, delivery, error.reason, _described(error), record)
            except Halted:
                await acknowledge(wire, message)
            except StreamFull:
                raise
            except Transient as error:
                if delivery.delivered < limit:
                    raise
                reason = f"{delivery.delivered} deliveries ended without an answer, the last with: {error}"
                await self._give_up(message, delivery, "deliveries", reason, record)
            except Exception as error:  # noqa: BLE001 - the process boundary: a handler's bug must not stop the role
                await self._stumble(message, delivery, error, record)
            else:
                await acknowledge(wire, message)

    async def _stumble(self, message: Msg, delivery: Delivery, error: Exception, record: Record[Fact]) -> None:
        """Give a handler that raised something unexpected its other deliveries, then give the fact up."""
        settings = self.platform.settings
        await logger.aexception("handling.raised", delivery=delivery.delivered)
        if delivery.delivered >= settings.max_deliveries:
            await self._give_up(message, delivery, "deliveries", _described(error), record)
            return
        await retry_later(self.platform.wire, message, settings.retry_delay * 2 ** (delivery.delivered - 1))

    async def _handle(self, record: Record[Fact], delivery: int) -> None:
        handler = self.service.handlers.get(type(record.fact))
        if handler is None:
            raise Permanent(f"{self.service.role} has no handler for {record.fact.type}")
        tail = await self.platform.tails.of(record.fact.run)
        state = await tail.histories[self.service.fold.name].at(record.sequence)
        effects = Effects(self.log, self.artifacts, record, delivery, halted=tail.halted.is_set)
        decided = _decide(self.log, handler, record, state, effects)
        await (_unless_halted(decided, tail) if self.service.heeds_halt else decided)

    async def _give_up(
        self, message: Msg, delivery: Delivery, reason: Any, error: str, record: Record[Fact] | None
    ) -> None:
        """Keep the message, say on the log that it was not handled, and never take it again."""
        await logger.aerror("handling.failed", subject=message.subject, reason=reason, error=error)
        sequence = delivery.stream_sequence
        await self.log.bury(message.subject, message.data, message.headers, sequence, f"{reason}: {error}")
        if record is None or not isinstance(record.fact, HandlingFailed):
            await self._tell(message, delivery, reason, error, record)
        await terminate(self.platform.wire, message, reason)

    async def _tell(
        self, message: Msg, delivery: Delivery, reason: Any, error: str, record: Record[Fact] | None
    ) -> None:
        try:
            failed = HandlingFailed(
                run=subjects.parse(message.subject).run,
                role=self.service.role,
                cause=str(record.id) if record else f"seq-{delivery.stream_sequence}",
                handled=message.subject,
                round=subjects.round_of(message.subject),
                reason=reason,
                error=error[-4000:],
                deliveries=delivery.delivered,
                cost=await self._spent(record) if record else Cost(),
            )
        except ValueError:
            return  # a foreign message on our stream, of no run of ours: the dead letter is all that can be said
        await (self.log.append(failed, cause=record.id) if record else self.log.append(failed))

    async def _spent(self, record: Record[Fact]) -> Cost:
        """Add up what the effects recorded for this fact have cost, on whichever delivery they were made."""
        filters = [subjects.fact(record.fact.run, "effect.recorded", f"{self.service.role}.{record.id}.>")]
        effects = [found.fact async for found in self.log.follow(filters, until=await self.log.end())]
        return sum((fact.cost for fact in effects if isinstance(fact, EffectRecorded)), Cost())


async def _decide(log: Log, handler: Handler, record: Record[Fact], state: State, effects: Effects) -> None:
    for fact in await handler(record, state, effects):
        await log.append(fact, cause=record.id)


async def _unless_halted(work: Any, tail: Tail) -> None:
    """Cut work off as soon as its run is halted.

    Raises:
        Halted: the run was halted first.
    """
    working = asyncio.ensure_future(work)
    halt = asyncio.ensure_future(tail.halted.wait())
    try:
        await asyncio.wait({working, halt}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Halted(f"run {tail.run} was halted")
        await working
    finally:
        await end(halt, working)


def _bound(record: Record[Fact]) -> dict[str, str]:
    """Name the run, round and candidate that a log line is about."""
    bound = {"run": record.fact.run, "cause": record.fact.type}
    if (round_ := subjects.round_of(record.fact.subject)) is not None:
        bound["round"] = round_
    if candidate := getattr(record.fact, "candidate", None):
        bound["candidate"] = candidate
    return bound


def _described(error: Exception) -> str:
    """Say what was raised and where, innermost frame last."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].name} ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
