"""How programs reach a pod and results come back: through the artifacts and the bus."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from evolvent import follow
from evolvent.artifacts import Artifacts
from evolvent.errors import Rejected, Transient
from evolvent.provision import RESULT_STREAM
from evolvent.wire import Wire
from evolvent_engineer.backend import Failed, Outcome, pods_of
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.settings import Order
from evolvent_engineer.pod.results import NotAResult, Slip, Told, agreed, verify
from evolvent_schemas import subjects
from evolvent_schemas.values import Program, RunSettings, canonical

logger = structlog.get_logger()


@dataclass(frozen=True)
class Depot:
    """The engineer's side of both."""

    wire: Wire
    artifacts: Artifacts
    secret: str
    """From which the keys of results are derived."""

    async def order(self, identity: Identity, program: Program, settings: RunSettings) -> Order:
        """Store what the pod has to fetch, and name it by digest. Idempotent.

        Raises:
            StreamFull: the stream's limit is reached.
        """
        if program.files is not None:
            await self.artifacts.put(canonical(program.files))
        task = settings.task
        return Order(
            identity=identity,
            bundle=settings.bundle,
            program=program.digest,
            spec=task.program,
            stage=task.stage(identity.stage),
            metric=task.objective.metric,
            key=Slip(str(identity), settings.bundle, program.digest).key(self.secret),
        )

    async def result(self, order: Order) -> Outcome:
        """Read what the pods of a completed Job have published: of each rank the first message that its key signed.

        A rank without one is a failure of the infrastructure whose message counts what was found instead.

        Raises:
            Transient: the bus does not answer.
        """
        slip = Slip(str(order.identity), order.bundle, order.program)
        pods = pods_of(order.stage)
        told: dict[int, Told] = {}
        refused: Counter[str] = Counter()
        for body, headers in await self._messages(order.identity):
            try:
                one = _fresh(verify(slip, body, headers, order.key), told, pods)
                told[one.rank] = one
            except NotAResult as error:
                refused[error.fault] += 1
                await logger.aerror("result.refused", experiment=slip.experiment, fault=error.fault)
        if missing := [str(rank) for rank in range(pods) if rank not in told]:
            found = ", ".join(f"{count} {fault}" for fault, count in sorted(refused.items())) or "none at all"
            who = "the pod" if pods == 1 else f"rank {', '.join(missing)} of {pods}"
            return Failed("infrastructure", f"{who} published no result that its key signed; found {found}")
        return agreed(tuple(told.values()))

    async def _messages(self, identity: Identity) -> list[tuple[bytes, dict[str, str]]]:
        subject = subjects.result(identity.run, identity.key)
        try:
            last = int((await self.wire.api(f"STREAM.INFO.{RESULT_STREAM}"))["state"]["last_seq"])
            found = follow.follow(self.wire, RESULT_STREAM, [subject], until=last)
            return [(message.data, message.headers or {}) async for message, _ in found]
        except (Rejected, TimeoutError) as error:
            raise Transient(f"the results of {identity} cannot be read: {error}") from error


def _fresh(one: Told, told: Mapping[int, Told], pods: int) -> Told:
    """Take what a rank says for the first time.

    Raises:
        NotAResult: it has spoken already, or there is no such rank.
    """
    if one.rank in told:
        raise NotAResult("repeated")
    if one.rank >= pods:
        raise NotAResult("of no rank")
    return one
