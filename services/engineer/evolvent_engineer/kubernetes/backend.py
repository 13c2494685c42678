"""Experiments as Jobs: launched once, followed by one watch, ended with one named reason."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import assert_never

import structlog

from evolvent.errors import EvolventError, Halted, Permanent
from evolvent_engineer.backend import pods_of
from evolvent_engineer.kubernetes.client import Client, Kind
from evolvent_engineer.kubernetes.ends import (
    End,
    Stuck,
    condition,
    has_evidence,
    is_disrupted,
    is_ended,
    is_several,
    judge,
    stuck,
)
from evolvent_engineer.kubernetes.identity import RUN_LABEL, SELECTOR, Identity
from evolvent_engineer.kubernetes.manifests import Manifest, experiment_job, identity_of, peer_policy
from evolvent_engineer.kubernetes.settings import ClusterSettings, Order
from evolvent_engineer.kubernetes.watch import Change, Listed, Listing, Seen, Watch
from evolvent_schemas.values import RoundId, RunId, SandboxTier

log = structlog.get_logger(__name__)


class KubernetesBackend:
    """One experiment, one Job.

    A restarted engineer calls `expect` with what it knows to be open, and learns every end, also of Jobs that another
    life of it created, at least once; `settle` ends the repetition.
    """

    def __init__(self, client: Client, settings: ClusterSettings) -> None:
        self._client = client
        self._settings = settings
        self._open: set[Identity] = set()
        self._done: set[Identity] = set()
        self._older: frozenset[Identity] = frozenset()
        self._listed = asyncio.Event()
        self._failure: BaseException | None = None
        self._pods: dict[Identity, dict[str, Manifest]] = defaultdict(dict)
        self._patience: dict[Identity, tuple[bool, asyncio.TimerHandle]] = {}
        self._ends: asyncio.Queue[End | BaseException] = asyncio.Queue()
        self._launching: set[Identity] = set()
        self._halted: set[tuple[RunId, RoundId | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def tier(self) -> SandboxTier:
        """A hardened Job."""
        return "T0"

    async def start(self) -> None:
        """Begin to watch; Jobs that exist already are adopted. Returns once they are known.

        Waits for a server that does not answer.

        Raises:
            Permanent: the server refuses us.
        """
        following = self._spawn(self._follow("jobs", self._on_jobs))
        listed = asyncio.ensure_future(self._listed.wait())
        await asyncio.wait({following, listed}, return_when=asyncio.FIRST_COMPLETED)
        if not listed.done():
            listed.cancel()
            raise self._failure or Permanent("the watch of Jobs ended before it began")
        self._spawn(self._follow("pods", self._on_pods))  # second: pods are judged by the Jobs that are known

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """A fault in our own code ends the stream of ends as well: nobody may wait for it for ever."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Nothing more can be learnt: whoever waits for an end, now or later, gets the reason."""
        self._failure = error
        self._ends.put_nowait(error)

    async def launch(self, order: Order) -> None:
        """Have the Job of one experiment, and the network among its pods if it is of several.

        Idempotent: a second call, also of another engineer, finds the first's, and makes good what that left undone.

        The end of a Job that has ended already is reported again.

        Raises:
            Conflict: a Job of that name measures something else.
            Halted: its run was halted, or its round.
            Permanent: the server refuses the Job or its network policy.
            Transient: it did not answer, or a quota is exhausted.
        """
        if self._failure is not None:
            raise self._failure
        identity = order.identity
        if self._is_halted(identity):
            raise Halted(f"nobody waits for {identity} any more")
        self._done.discard(identity)
        self._open.add(identity)  # before the Job exists, so that nothing about its pods is missed
        self._launching.add(identity)  # and a list that does not show it yet proves nothing
        try:
            job = await self._client.create_job(experiment_job(order, self._settings))
            if pods_of(order.stage) > 1:
                await self._let_meet(identity, job)
        except EvolventError:
            self._open.discard(identity)  # should it exist all the same, the watch finds it
            raise
        finally:
            self._launching.discard(identity)
        await self._on_job(job)

    async def _let_meet(self, identity: Identity, job: Manifest) -> None:
        """Give the pods of several a way to each other; a Job that gets none would hold GPUs and wait for nothing."""
        try:
            await self._client.create_policy(peer_policy(job))
        except Permanent:
            self._forget(identity)
            await self._remove(identity)
            raise

    def expect(self, identities: Iterable[Identity]) -> None:
        """Before `start`: say which experiments are open, so that a Job that vanished unseen is reported as well."""
        self._open |= set(identities)

    async def ends(self) -> AsyncIterator[End]:
        """Every end of every Job, of whichever life of the engineer, at least once.

        Raises:
            Permanent: the server refuses us; restart with other rights.
        """
        while True:
            found = await self._ends.get()
            if isinstance(found, BaseException):
                raise found
            yield found

    async def settle(self, identity: Identity) -> None:
        """The end is stored: remove the Job, so that no restart reports it again. Idempotent.

        Raises:
            Permanent, Transient: as for `launch`.
        """
        self._forget(identity)
        await self._client.delete_job(identity.name)

    async def halt(self, run: RunId, round_: RoundId | None = None) -> None:
        """Remove all Jobs of a run, or of one round, with their pods at once, and any that shows later.

        Their ends are not reported.

        Raises:
            Permanent, Transient: as for `launch`.
        """
        self._halted.add((run, round_))
        halted = [each for each in self._open if each.run == run and round_ in {None, each.round}]
        for identity in halted:
            self._forget(identity)
        if halted and round_ is None:  # a run that was halted long ago costs no request
            await self._client.delete_jobs(f"{SELECTOR},{RUN_LABEL}={run}")
            return
        for identity in halted:
            await self._client.delete_job(identity.name)

    def _is_halted(self, identity: Identity) -> bool:
        return not self._halted.isdisjoint({(identity.run, None), (identity.run, identity.round)})

    async def close(self) -> None:
        """Stop watching; the Jobs go on. Idempotent."""
        for _, timer in self._patience.values():
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await self._client.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, kind: Kind, handle: Callable[[Change], Awaitable[None]]) -> None:
        try:
            async for change in Watch(self._client, kind, SELECTOR).changes():
                await handle(change)
        except Permanent as error:
            self._fail(error)

    async def _on_jobs(self, change: Change) -> None:
        match change:
            case Listing():
                self._older = frozenset(self._open - self._launching)
            case Listed(items):
                await self._on_list(items)
            case Seen("DELETED", item):
                self._on_deleted(item)
            case Seen(_, item):
                await self._on_job(item)
            case _:
                assert_never(change)

    async def _on_list(self, items: tuple[Manifest, ...]) -> None:
        """Adopt what exists; whatever was open and is not there has been deleted unseen."""
        found = {identity for identity in map(identity_of, items) if identity is not None}
        self._done &= found
        for item in items:
            await self._on_job(item)
        for identity in self._older - found:
            self._resolve(End(identity, "infrastructure", "the Job is gone: it was deleted while nobody watched"))
        self._listed.set()

    async def _on_job(self, job: Manifest) -> None:
        identity = identity_of(job)
        if identity is None:
            return
        if self._is_halted(identity):  # asked first: a halt settles what is open, and a Job may come after it
            self._forget(identity)
            if "deletionTimestamp" not in job["metadata"]:
                self._spawn(self._remove(identity))
            return
        if identity in self._done:
            return
        self._open.add(identity)
        if is_ended(job):
            pods = await self._known_pods(identity, job)
            self._resolve(judge(identity, job, pods))

    def _on_deleted(self, job: Manifest) -> None:
        identity = identity_of(job)
        if identity is not None:
            self._resolve(End(identity, "infrastructure", "the Job was deleted before its end was seen"))
            self._done.discard(identity)  # the name is free again

    async def _known_pods(self, identity: Identity, job: Manifest) -> list[Manifest]:
        """What was seen of the pods; asked for once when a failure is known to the Job's watch first.

        Of several pods all are asked for: one that was stopped may be seen before the one that was the cause.
        """
        known = self._pods.get(identity, {})
        if condition(job, "Failed") and (is_several(job) or not has_evidence(known.values())):
            with contextlib.suppress(EvolventError):  # without evidence nobody is blamed
                items, _ = await self._client.list("pods", f"batch.kubernetes.io/job-name={identity.name}")
                return list((known | {item["metadata"]["uid"]: item for item in items}).values())
        return list(known.values())

    async def _on_pods(self, change: Change) -> None:
        match change:
            case Listing():
                pass
            case Listed(items):
                for item in items:
                    self._on_pod(item)
            case Seen(_, item):
                self._on_pod(item)  # also its last state: a deleted pod still tells how it ended
            case _:
                assert_never(change)

    def _on_pod(self, pod: Manifest) -> None:
        identity = identity_of(pod)
        if identity is None or identity not in self._open:
            return
        self._pods[identity][pod["metadata"]["uid"]] = pod
        disrupted = sum(map(is_disrupted, self._pods[identity].values()))
        if disrupted > self._settings.disruptions:
            self._give_up(identity, f"{disrupted} pods were evicted, preempted or lost their node")
        else:
            live = (each for each in self._pods[identity].values() if "deletionTimestamp" not in each["metadata"])
            self._watch_start(identity, next(filter(None, map(stuck, live)), None))

    def _watch_start(self, identity: Identity, found: Stuck | None) -> None:
        """Be patient while some pod does not start, and only so long."""
        known = self._patience.get(identity)
        if found is not None and known is not None and known[0] is found.image:
            return
        if known is not None:
            known[1].cancel()
            del self._patience[identity]
        if found is not None:
            seconds = self._settings.image_seconds if found.image else self._settings.pending_seconds
            why = f"no start within {seconds:g} s: {found.why}"
            timer = asyncio.get_running_loop().call_later(seconds, self._give_up, identity, why)
            self._patience[identity] = (found.image, timer)

    def _give_up(self, identity: Identity, why: str) -> None:
        self._resolve(End(identity, "infrastructure", why))
        self._spawn(self._remove(identity))

    async def _remove(self, identity: Identity) -> None:
        try:
            await self._client.delete_job(identity.name)
        except EvolventError as error:
            log.warning("a Job that was given up stays until its deadline", job=identity.name, error=str(error))

    def _resolve(self, end: End) -> None:
        """An experiment ends once."""
        if end.identity in self._open:
            self._forget(end.identity)
            self._ends.put_nowait(end)

    def _forget(self, identity: Identity) -> None:
        self._done.add(identity)
        self._open.discard(identity)
        self._pods.pop(identity, None)
        if known := self._patience.pop(identity, None):
            known[1].cancel()
