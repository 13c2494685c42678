"""The effects journal: what is not a function of the log is asked once, recorded, and then read from the log."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from evolvent.artifacts import Artifacts
from evolvent.clock import monotonic
from evolvent.errors import CodeChanged, Halted, Permanent, Transient, Unrecorded
from evolvent.log import Log, Record
from evolvent_schemas import EffectRecorded, Fact
from evolvent_schemas.values import INLINE_LIMIT, Cost, canonical, sha256

NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an effect gave: plain JSON, and what it cost."""

    value: Any
    cost: Cost = NOTHING


class EffectFailed(Permanent):
    """The effect failed for good, now or when it was recorded; message and reason are the recorded ones."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Effects:
    """The effects of one handler for one cause.

    With `live` false nothing is called or written: what is not on the log raises `Unrecorded`.
    """

    log: Log
    artifacts: Artifacts
    cause: Record[Fact]
    delivery: int = 1
    live: bool = True
    halted: Callable[[], bool] = bool

    async def once(
        self, name: str, request: Any, call: Callable[[], Awaitable[Answer]], *, tries: int | None = None
    ) -> Any:
        """Return the recorded answer to this request, or call, record and return it.

        A call whose answer was recorded is never repeated. One that was cut off before may be, once per delivery; the
        record's `delivery` books how many there can have been. From the delivery `tries` on, a passing fault counts as
        a lasting one: for a handler that can do without the answer.

        Raises:
            CodeChanged: another request was recorded under this name.
            EffectFailed: the call failed for good; that too is recorded.
            Halted: the run was halted.
            Transient: a passing fault of the call; nothing is recorded.
        """
        digest = sha256(canonical(request))
        stored = await self.log.read(self._subject(name))
        if stored is None:
            stored = await self._call(name, digest, call, tries)
        assert isinstance(stored.fact, EffectRecorded)
        return await self._answer(stored.fact, digest)

    def _subject(self, name: str) -> str:
        return self._record(name, "0" * 64, outcome="answered").subject

    def _record(self, name: str, digest: str, **fields: Any) -> EffectRecorded:
        return EffectRecorded(
            run=self.cause.fact.run,
            role=self.log.role,
            cause=self.cause.id,
            name=name,
            request=digest,
            delivery=self.delivery,
            **fields,
        )

    async def _call(
        self, name: str, digest: str, call: Callable[[], Awaitable[Answer]], tries: int | None
    ) -> Record[Fact]:
        self._check(name)
        began = monotonic()
        try:
            answer = await call()
        except Transient as error:
            if tries is None or self.delivery < tries:
                raise
            fact = self._failed(name, digest, error, monotonic() - began)
        except Permanent as error:
            fact = self._failed(name, digest, error, monotonic() - began)
        else:
            fact = await self._answered(name, digest, answer, monotonic() - began)
        return await self.log.append(fact, cause=self.cause.id)

    def _failed(self, name: str, digest: str, error: Transient | Permanent, seconds: float) -> EffectRecorded:
        reason = error.reason if isinstance(error, Permanent) else Permanent.reason
        said = f"{type(error).__name__}: {error}"
        return self._record(name, digest, outcome="failed", error=said, reason=reason, wall_seconds=seconds)

    async def _answered(self, name: str, digest: str, answer: Answer, seconds: float) -> EffectRecorded:
        body = canonical(answer.value)
        if len(body) <= INLINE_LIMIT:
            value = {"answer": orjson.loads(body)}
        else:
            value = {"artifact": await self.artifacts.put(body)}
        return self._record(name, digest, outcome="answered", cost=answer.cost, wall_seconds=seconds, **value)

    async def _answer(self, recorded: EffectRecorded, digest: str) -> Any:
        if recorded.request != digest:
            raise CodeChanged(f"{recorded.subject} was recorded for another request than this code makes")
        if recorded.outcome == "failed":
            raise EffectFailed(recorded.error, reason=recorded.reason or Permanent.reason)
        if recorded.artifact is not None:
            return orjson.loads(await self.artifacts.get(recorded.artifact))
        return recorded.answer

    async def observe(self, subjects: tuple[str, ...], call: Callable[[], Awaitable[Fact]]) -> Fact:
        """Return the observation that stands on one of these subjects, or make it, append it and return what stands.

        The fact is its own record. The log is asked first only where an earlier delivery can have written it.

        Raises:
            Halted: the run was halted.
            Unrecorded: the handler runs in a replay and the log holds none.
        """
        if self.delivery > 1 or not self.live:
            for subject in subjects:
                if (stored := await self.log.read(subject)) is not None:
                    return stored.fact
        self._check(subjects[0])
        return (await self.log.append(await call(), cause=self.cause.id)).fact

    def _check(self, what: str) -> None:
        if not self.live:
            raise Unrecorded(f"{what} was never recorded")
        if self.halted():
            raise Halted(f"run {self.cause.fact.run} was halted before {what}")
