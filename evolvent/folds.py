"""Persistent folds: a role's state at any fact of a run, and snapshots that make going there cheap."""

import asyncio
import bisect
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Self, TypeVar
from uuid import UUID

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import core_schema
from rpds import HashTrieMap

from evolvent.log import Log, Record
from evolvent_schemas import Fact, RunFinished, RunHalted, filter_for

REMEMBERED = 2048
"""Versions of a state kept in memory; they share structure, so each costs what it changed."""
FIRST_SNAPSHOT = 2000
"""Facts folded before the first snapshot; the next comes at half as many again, so that their cost stays linear."""

S = TypeVar("S", bound="State")
logger = structlog.get_logger()


@dataclass(frozen=True)
class _Persistent:
    """Tells pydantic how to read and write a `HashTrieMap` of these keys and values."""

    keys: Any
    values: Any

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        plain = handler.generate_schema(dict[self.keys, self.values])  # type: ignore[name-defined]
        return core_schema.union_schema(
            [
                core_schema.is_instance_schema(HashTrieMap),
                core_schema.no_info_after_validator_function(HashTrieMap, plain),
            ],
            serialization=core_schema.plain_serializer_function_ser_schema(dict, return_schema=plain),
        )


if TYPE_CHECKING:
    Map = HashTrieMap
else:

    class Map:
        """`Map[K, V]`: a persistent map; an insert makes a new one that shares almost everything with the old."""

        def __class_getitem__(cls, item: tuple[Any, Any]) -> Any:
            return Annotated[HashTrieMap, _Persistent(*item)]


def empty() -> Any:
    """Make an empty `Map`; for `Field(default_factory=empty)`."""
    return HashTrieMap()


class State(BaseModel):
    """A frozen folded state; called without arguments it is the state of an empty run."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def evolve(self, **changes: object) -> Self:
        """Make the next version with these fields changed."""
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Fold(Generic[S]):
    """What a role makes of a run's facts."""

    name: str
    version: int
    """Raise it when `step` or the state changes; older snapshots are then ignored."""
    state: type[S]
    facts: tuple[type[Fact], ...]
    step: Callable[[S, Record[Fact]], S]
    """Fold one fact. Pure and total."""

    def filters(self, run: str) -> list[str]:
        """Spell the subjects of a run that the fold reads; the end of the run is always among them."""
        classes: tuple[type[Fact], ...] = (*self.facts, RunHalted, RunFinished)
        return sorted({filter_for(cls, run) for cls in classes})

    def advance(self, state: S, record: Record[Fact]) -> S:
        return self.step(state, record) if isinstance(record.fact, self.facts) else state


@dataclass
class History(Generic[S]):
    """The versions of one run's state, kept up with the log."""

    log: Log
    fold: Fold[S]
    run: str
    snapshots: "Snapshots"
    halted: asyncio.Event = field(default_factory=asyncio.Event)
    finished: bool = False
    _positions: list[int] = field(default_factory=list)
    _versions: list[S] = field(default_factory=list)
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    _folded: int = 0
    _tail: asyncio.Task[None] | None = None

    @property
    def latest(self) -> S:
        return self._versions[-1] if self._versions else self.fold.state()

    async def at(self, sequence: int) -> S:
        """Give the state that holds exactly the facts up to and including this position; waits for the tail."""
        tail = self.begin()
        while not self._positions or self._positions[-1] < sequence:
            if tail.done():
                tail.result()
            await self._next()
        index = bisect.bisect_right(self._positions, sequence) - 1
        return self._versions[index] if index >= 0 else await self._rebuild(sequence)

    def begin(self) -> asyncio.Task[None]:
        """Start to follow the log, unless that has been done."""
        if self._tail is None:
            self._tail = asyncio.create_task(self._follow())
        return self._tail

    async def _next(self) -> None:
        async with self._moved:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # a tail that died must be noticed
                    await self._moved.wait()

    async def _follow(self) -> None:
        start, state, self._folded = await self.snapshots.load(self.log, self.fold, self.run)
        if start:
            self._positions.append(start)
            self._versions.append(state)
        async for record in self.log.follow(self.fold.filters(self.run), start=start + 1):
            state = self.fold.advance(state, record)
            self._folded += 1
            self._remember(record, state)
            async with self._moved:
                self._moved.notify_all()
            if self.snapshots.due(self.fold, self.run, self._folded):
                await self.snapshots.save(self.fold, record, state, self._folded)

    def _remember(self, record: Record[Fact], state: S) -> None:
        self._positions.append(record.sequence)
        self._versions.append(state)
        if len(self._positions) > 2 * REMEMBERED:
            del self._positions[:REMEMBERED]
            del self._versions[:REMEMBERED]
        if isinstance(record.fact, RunHalted):
            self.halted.set()
        self.finished = self.finished or isinstance(record.fact, RunFinished)

    async def _rebuild(self, sequence: int) -> S:
        start, state, _ = await self.snapshots.load(self.log, self.fold, self.run, before=sequence)
        async for record in self.log.follow(self.fold.filters(self.run), start=start + 1, until=sequence):
            state = self.fold.advance(state, record)
        return state

    async def close(self) -> None:
        if self._tail is not None:
            self._tail.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tail


@dataclass
class Histories(Generic[S]):
    """The histories of every run that a service works on."""

    log: Log
    fold: Fold[S]
    snapshots: "Snapshots"
    _runs: dict[str, History[S]] = field(default_factory=dict)

    async def of(self, run: str) -> History[S]:
        """Find or begin the history of a run; those of finished runs make room."""
        if run not in self._runs:
            for name in [name for name, history in self._runs.items() if history.finished]:
                await self._runs.pop(name).close()
            self._runs[run] = History(self.log, self.fold, run, self.snapshots)
        return self._runs[run]

    def open(self) -> list[History[S]]:
        """List the runs that are not finished, as far as this service has heard of them."""
        return [history for history in self._runs.values() if not history.finished]

    async def close(self) -> None:
        for history in self._runs.values():
            await history.close()


class _Snapshot(BaseModel):
    """A state with the fact it ends at; the fact's subject finds its position in any copy of the log."""

    subject: str
    id: UUID
    folded: int
    state: Any


@dataclass
class Snapshots:
    """Folded states on disk. A cache: it may be deleted at any time, and what cannot be read is ignored."""

    folder: Path
    _taken: dict[Path, int] = field(default_factory=dict)

    def _of(self, fold: Fold[S], run: str) -> Path:
        return self.folder / f"{fold.name}-v{fold.version}" / run

    def due(self, fold: Fold[S], run: str, folded: int) -> bool:
        return folded >= FIRST_SNAPSHOT and folded >= 1.5 * self._taken.get(self._of(fold, run), 0)

    async def save(self, fold: Fold[S], record: Record[Fact], state: S, folded: int) -> None:
        """Write the state that ends with this fact; a full disk is reported and otherwise harmless."""
        folder = self._of(fold, record.fact.run)
        self._taken[folder] = folded
        try:
            await asyncio.to_thread(_write, folder, record, state, folded)
        except OSError as error:
            await logger.awarning("snapshot.failed", folder=str(folder), error=str(error))

    async def load(self, log: Log, fold: Fold[S], run: str, before: int | None = None) -> tuple[int, S, int]:
        """Find the newest snapshot not after `before`: position, state, facts folded; without one, the start."""
        folder = self._of(fold, run)
        for path in sorted(folder.glob("*.json"), reverse=True):
            with contextlib.suppress(ValidationError, ValueError, OSError):
                snapshot = _Snapshot.model_validate_json(await asyncio.to_thread(path.read_bytes))
                record = await log.read(snapshot.subject)
                if record is None or record.id != snapshot.id or (before is not None and record.sequence > before):
                    continue
                self._taken[folder] = max(self._taken.get(folder, 0), snapshot.folded)
                return record.sequence, fold.state.model_validate(snapshot.state), snapshot.folded
        return 0, fold.state(), 0


def _write(folder: Path, record: Record[Fact], state: State, folded: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = _Snapshot(subject=record.fact.subject, id=record.id, folded=folded, state=state.model_dump(mode="json"))
    part = folder / f".{folded:012d}.part"
    part.write_bytes(orjson.dumps(snapshot.model_dump(mode="json"), option=orjson.OPT_NON_STR_KEYS))
    part.replace(folder / f"{folded:012d}.json")
