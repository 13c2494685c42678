"""The append-only log: facts go in by their kind and come out in order. The only source of truth."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

import structlog

from evolvent import follow
from evolvent.clock import jitter, now
from evolvent.errors import Conflict, Diverged, Rejected, SchemaError, Transient, Unprovisioned
from evolvent.wire import PROVISION, Code, Wire
from evolvent_schemas import ROOT, Fact, Kind, decode, envelope, fact_id, subjects

STREAM = "LOG"
DEAD_STREAM = "DEAD"

F_co = TypeVar("F_co", bound=Fact, covariant=True)
logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Record(Generic[F_co]):
    """A fact with its envelope."""

    fact: F_co
    id: UUID
    cause: UUID
    time: datetime
    source: str
    sequence: int
    """Position in this copy of the log; never stored, because a mirror or an import may number anew."""

    @classmethod
    def read(cls, subject: str, headers: dict[str, str] | None, data: bytes, sequence: int) -> "Record[Fact]":
        """Decode a stored message.

        Raises:
            SchemaError: the subject, the envelope or the body is not a fact's.
        """
        try:
            found = headers or {}
            return Record(
                fact=decode(subject, data),
                id=UUID(found[envelope.ID]),
                cause=UUID(found[envelope.CAUSE]),
                time=datetime.fromisoformat(found[envelope.TIME]),
                source=found[envelope.SOURCE],
                sequence=sequence,
            )
        except KeyError as error:
            raise SchemaError(f"the message on {subject} has no header {error}") from error
        except ValueError as error:
            raise SchemaError(f"the message on {subject} is not a fact: {error}") from error


@dataclass(frozen=True)
class Log:
    """Append and read facts as one role."""

    wire: Wire
    role: str

    async def append(self, fact: Fact, *, cause: UUID = ROOT) -> Record[Fact]:
        """Store a fact, or find out what its subject already holds. Safe to repeat; returns what stands on the log.

        Waits for as long as the outcome is unknown (no leader, no quorum, no connection): the id stays the same.

        Raises:
            Conflict: a decision stands there that something else caused.
            Diverged: this decision stands there with another body.
            StreamFull: the stream's limit is reached.
            Permanent: JetStream will never take it (too large, no permission to this subject, no such stream).
        """
        wanted = fact_id(cause, fact.subject)
        body = fact.body()
        time = now()
        headers = _headers(fact, wanted, cause, time, self.role)
        sequence = await self.wire.store(fact.subject, body, headers)
        if sequence is not None:
            return Record(fact, wanted, cause, time, self.role, sequence)
        return await self._standing(fact, wanted, body)

    async def _standing(self, fact: Fact, wanted: UUID, body: bytes) -> Record[Fact]:
        stored = await self._leader_says(fact.subject)
        if stored is None:
            raise Transient(f"{fact.subject} was refused as taken and is empty; it will be tried again")
        if fact.kind is not Kind.DECISION:
            return stored
        if stored.id != wanted:
            raise Conflict(
                f"{fact.subject} was already decided by {stored.cause}, see `evolvent audit replay {fact.run}`"
            )
        if stored.fact.body() != body:
            raise Diverged(f"{fact.subject} came out differently, see `evolvent audit replay {fact.run}`")
        return stored

    async def _leader_says(self, subject: str) -> Record[Fact] | None:
        """Read what stands on a subject, waiting for as long as there is no leader to ask."""
        while True:
            try:
                return await self.read(subject)
            except Transient:
                await asyncio.sleep(jitter(0.3))

    async def read(self, subject: str) -> Record[Fact] | None:
        """Read the fact on a subject from the leader; none if there is none.

        Raises:
            Transient: the leader does not answer.
            Unprovisioned: there is no log.
            SchemaError: what stands there is not a fact.
        """
        try:
            message = await self.wire.last(STREAM, subject)
        except (TimeoutError, Rejected) as error:
            raise _unread(subject, error) from error
        if message is None:
            return None
        return Record.read(message.subject, message.headers, message.data, message.sequence)

    async def follow(
        self, filters: Iterable[str], *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Record[Fact]]:
        """Yield the facts on these subjects in log order: up to sequence `until`, or for ever without it.

        What is not a fact has no meaning to anybody: it is named in the service's log and passed over.
        """
        async for message, delivery in follow.follow(self.wire, STREAM, list(filters), start=start, until=until):
            try:
                record = Record.read(message.subject, message.headers, message.data, delivery.stream_sequence)
            except SchemaError as error:
                await logger.aerror("log.unreadable", sequence=delivery.stream_sequence, error=str(error))
                continue
            yield record

    async def run(self, run: str, *, until: int | None = None) -> list[Record[Fact]]:
        """Read every fact of a run, effects included, in log order."""
        end = until if until is not None else await self.end()
        return [record async for record in self.follow([subjects.of_run(run)], until=end)]

    async def end(self) -> int:
        """Tell the sequence of the newest message; 0 for an empty log.

        Raises:
            Transient: the leader does not answer.
            Unprovisioned: there is no log.
        """
        try:
            return int((await self.wire.api(f"STREAM.INFO.{STREAM}"))["state"]["last_seq"])
        except (TimeoutError, Rejected) as error:
            raise _unread("the end of the log", error) from error

    async def bury(self, subject: str, data: bytes, headers: dict[str, str] | None, sequence: int, reason: str) -> None:
        """Keep a message that no handler could take, byte for byte, with the reason."""
        kept = {**(headers or {}), "Evolvent-Subject": subject, "Evolvent-Reason": " ".join(reason.split())[:1000]}
        kept = {name: value for name, value in kept.items() if not name.startswith("Nats-")}
        grave = subjects.dead(self.role, sequence)
        ours = {envelope.MSG_ID: grave, envelope.EXPECTED_STREAM: DEAD_STREAM, envelope.EXPECTED_SUBJECT_SEQUENCE: "0"}
        await self.wire.store(grave, data, {**kept, **ours})


def _unread(what: str, error: Exception) -> Transient:
    if isinstance(error, Rejected) and error.code == Code.STREAM_NOT_FOUND:
        return Unprovisioned(f"{what} cannot be read: the server has no stream {STREAM}; make it with {PROVISION}")
    return Transient(f"{what} cannot be read: {error}")


def _headers(fact: Fact, id_: UUID, cause: UUID, time: datetime, role: str) -> dict[str, str]:
    return {
        envelope.SPECVERSION: "1.0",
        envelope.ID: str(id_),
        envelope.SOURCE: f"evolvent/{role}",
        envelope.TYPE: fact.type,
        envelope.SUBJECT: fact.key or fact.run,
        envelope.TIME: time.isoformat(timespec="milliseconds"),
        envelope.CAUSE: str(cause),
        envelope.MSG_ID: str(id_),
        envelope.EXPECTED_STREAM: STREAM,
        envelope.EXPECTED_SUBJECT_SEQUENCE: "0",
    }
