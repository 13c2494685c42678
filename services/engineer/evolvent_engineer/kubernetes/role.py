"""The engineer on a cluster: a screened program becomes Jobs, and the end of a Job becomes a fact."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog
from pydantic import ValidationError

from evolvent.clock import monotonic
from evolvent.errors import Halted, Permanent, Refused, StreamFull, Transient
from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.platform import Platform
from evolvent.service import FULL_PAUSE, Handler, Runner, Service
from evolvent_engineer import source
from evolvent_engineer.backend import Failed, Outcome
from evolvent_engineer.handlers import TRIES, ended, ends_of
from evolvent_engineer.kubernetes.backend import KubernetesBackend
from evolvent_engineer.kubernetes.client import Client
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.ends import End
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.open import unfinished
from evolvent_engineer.kubernetes.settings import ClusterSettings
from evolvent_engineer.orders import FOLD, Orders
from evolvent_schemas import (
    CandidateScreened,
    ExperimentFailed,
    ExperimentStarted,
    Fact,
    HandlingFailed,
    RoundClosed,
    RunFinished,
    RunHalted,
    filter_for,
    subjects,
)
from evolvent_schemas.values import Program, RunSettings

T = TypeVar("T")
_AT_ONCE = 16
"""Ends that are dealt with at the same time."""
logger = structlog.get_logger()


@dataclass(frozen=True)
class Cluster:
    """What the role works with while it runs."""

    backend: KubernetesBackend
    depot: Depot


def connected(platform: Platform) -> Cluster:
    """Connect to the cluster that the environment names.

    Raises:
        Refused: a setting is missing.
        Permanent: no cluster is configured.
    """
    try:
        settings = ClusterSettings()
    except ValidationError as error:
        wrong = "; ".join(
            f"EVOLVENT_EXPERIMENT_{str(found['loc'][0]).upper()}: {found['msg']}" for found in error.errors()
        )
        raise Refused(f"the kubernetes backend lacks settings: {wrong}") from error
    backend = KubernetesBackend(Client.connect(settings.namespace), settings)
    return Cluster(backend, Depot(platform.wire, platform.artifacts, settings.signing_secret.get_secret_value()))


def on_kubernetes(platform: Platform, connect: Callable[[Platform], Cluster]) -> Service[Orders]:
    """Build the role; nothing is connected before it runs, so that its decisions can be replayed anywhere."""
    role = Dispatch(platform, connect)
    return Service(
        "engineer",
        FOLD,
        role.handlers,
        concurrency=_AT_ONCE,
        background=role.attend,
        running=role.running,
    )


class Dispatch:
    """Launches Jobs and records their ends."""

    def __init__(self, platform: Platform, connect: Callable[[Platform], Cluster]) -> None:
        self._platform = platform
        self._connect = connect
        self._log = platform.log("engineer")
        self._cluster: Cluster | None = None
        self._room = asyncio.Semaphore(_AT_ONCE)

    @property
    def handlers(self) -> dict[type[Fact], Handler]:
        return {CandidateScreened: self.on_screened}

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None, "the role does not run"
        return self._cluster

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the cluster; Jobs of other engineers and of earlier lives are adopted before the first fact is taken.

        Raises:
            Permanent, Refused: the cluster is not to be had.
        """
        cluster = self._cluster = self._connect(self._platform)
        try:
            cluster.backend.expect(await unfinished(self._log))
            await cluster.backend.start()
            yield
        finally:
            await cluster.backend.close()

    async def on_screened(self, cause: Record[CandidateScreened], orders: Orders, effects: Effects) -> Sequence[Fact]:
        """Have a Job for every seed of a new program; its ends come later, and not through here.

        Raises:
            Halted: the run was halted, or the round is closed.
            Permanent: the cluster refuses a Job for good.
        """
        screened, settings, program = cause.fact, orders.settings, orders.programs.get(cause.fact.candidate)
        if screened.verdict == "duplicate" or settings is None or program is None:
            return []
        stage = settings.task.stages[0]
        fault = source.fault(await effects.artifacts.files(program), settings.task.program)
        one = fault is not None or not effects.live  # a backend that measures seed by seed stops at the first failure
        for seed in range(1 if one else stage.seeds):
            first = Identity(screened.run, screened.candidate, stage.name, seed, 0)
            begin = partial(self._begin, first, program, settings, launch=fault is None)
            await effects.observe((_started(first).subject,), partial(_insist, begin))
            if fault is not None:
                await effects.observe(ends_of(first.run, first.key), partial(_failed, first, fault))
        return []

    async def _begin(
        self, identity: Identity, program: Program, settings: RunSettings, *, launch: bool = True
    ) -> ExperimentStarted:
        """Have the Job before the fact of it: a Job that a fact names and nobody finds has vanished."""
        if launch:
            order = await self.cluster.depot.order(identity, program, settings)
            try:
                await self.cluster.backend.launch(order)
            except Refused as error:
                raise Permanent(str(error)) from error
        return _started(identity)

    async def attend(self, runner: Runner[Orders]) -> None:
        """Record ends and heed halts until cancelled; when that is no longer possible the role stops.

        Raises:
            Permanent: it is not.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._record_ends(group))
                group.create_task(self._heed_what_is_over())
        except BaseExceptionGroup as errors:
            reasons = [str(error) for error in errors.exceptions]
            await logger.aerror("cluster.lost", errors=reasons)
            runner.stop()
            raise Permanent(f"the cluster cannot be followed any more: {'; '.join(reasons)}") from errors

    async def _heed_what_is_over(self) -> None:
        """Remove the Jobs of runs that were halted, and those that a closed round or a finished run did not wait for.

        One seed that fails closes its round; the others would train on for nobody.
        """
        async for record in self._log.follow([filter_for(each) for each in (RunHalted, RunFinished, RoundClosed)]):
            round_ = record.fact.round if isinstance(record.fact, RoundClosed) else None
            await _insist(partial(self.cluster.backend.halt, record.fact.run, round_))

    async def _record_ends(self, group: asyncio.TaskGroup) -> None:
        async for end in self.cluster.backend.ends():
            group.create_task(self._deal_with(end))

    async def _deal_with(self, end: End) -> None:
        began = monotonic()
        with structlog.contextvars.bound_contextvars(run=end.identity.run, experiment=str(end.identity)):
            try:
                await _insist(partial(self._in_turn, end))
            except Halted:
                return
            except Exception:  # noqa: BLE001 - a boundary: one end that cannot be understood may not stop the others
                await logger.aexception("end.unrecorded", seconds=monotonic() - began)

    async def _in_turn(self, end: End) -> None:
        async with self._room:
            await self.record(end)

    async def record(self, end: End) -> None:
        """Store the fact of an end, remove the Job, and go on where it calls for another try. Idempotent.

        The Job goes first, for it may hold the quota that the next one needs. Whoever dies in between has the
        measurement among the `unfinished`, is told that its Job is gone, and comes here again.

        Raises:
            Halted: the run was halted, or the round is closed.
            Permanent, Transient: the bus or the cluster refuses, for good or for now.
        """
        identity = end.identity
        screened = await self._log.read(subjects.fact(identity.run, "candidate.screened", identity.candidate))
        if screened is None:
            await logger.awarning("end.foreign")  # a Job that another installation has in this namespace
            return
        if await self._log.read(subjects.fact(identity.run, "round.closed", identity.round)) is not None:
            await self.cluster.backend.settle(identity)  # nobody waits for it
            return
        tail = await self._platform.tails.of(identity.run)
        orders: Orders = await tail.histories[FOLD.name].at(screened.sequence)
        program, settings = orders.programs[identity.candidate], orders.settings
        assert settings is not None
        await self._log.append(_started(identity), cause=screened.id)
        fact = await self._stored(identity) or await self._store(end, program, settings, screened)
        await self.cluster.backend.settle(identity)
        if isinstance(fact, ExperimentFailed) and fact.blame == "infrastructure":
            await self._again(identity, fact, program, settings, screened)

    async def _stored(self, identity: Identity) -> Fact | None:
        """The end that stands already, of another engineer or an earlier life."""
        for subject in ends_of(identity.run, identity.key):
            if (record := await self._log.read(subject)) is not None:
                return record.fact
        return None

    async def _store(self, end: End, program: Program, settings: RunSettings, screened: Record[Fact]) -> Fact:
        outcome: Outcome
        if end.reason is None:
            outcome = await self.cluster.depot.result(await self.cluster.depot.order(end.identity, program, settings))
        else:
            outcome = Failed(end.reason, end.message, end.measured, end.wall_seconds)
        return (await self._log.append(ended(_started(end.identity), outcome), cause=screened.id)).fact

    async def _again(
        self,
        identity: Identity,
        fact: ExperimentFailed,
        program: Program,
        settings: RunSettings,
        screened: Record[Fact],
    ) -> None:
        """Try once more, unless that has been done; after the last try the role gives the program up."""
        following = replace(identity, attempt=identity.attempt + 1)
        if following.attempt >= TRIES:
            why = f"failed {TRIES} times by the infrastructure: {fact.message}"
            await self._log.append(_given_up(identity, why, screened), cause=screened.id)
        elif await self._log.read(_started(following).subject) is None:
            try:
                begun: Fact = await self._begin(following, program, settings)
            except Permanent as error:
                begun = _given_up(following, str(error), screened)
            await self._log.append(begun, cause=screened.id)


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat what fails for now; nobody else would."""
    while True:
        try:
            return await call()
        except Transient as error:
            delay, reason = error.delay, str(error)
        except StreamFull as error:
            delay, reason = FULL_PAUSE, str(error)
        await logger.awarning("cluster.delayed", error=reason, delay=delay)
        await asyncio.sleep(delay)


def _started(identity: Identity) -> ExperimentStarted:
    return ExperimentStarted(
        run=identity.run,
        candidate=identity.candidate,
        stage=identity.stage,
        seed=identity.seed,
        attempt=identity.attempt,
        tier="T0",
        backend="kubernetes",
    )


async def _failed(identity: Identity, fault: str) -> Fact:
    return ended(_started(identity), Failed("static_check", fault))


def _given_up(identity: Identity, why: str, screened: Record[Fact]) -> HandlingFailed:
    return HandlingFailed(
        run=identity.run,
        role="engineer",
        cause=str(screened.id),
        handled=screened.fact.subject,
        round=subjects.round_of(screened.fact.subject),
        reason="permanent",
        error=f"experiment {identity}: {why}",
        deliveries=1,
    )
