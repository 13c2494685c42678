"""The state of a run at any of its facts: one tail per run and process, and the versions every fold has made of it."""

import asyncio
import bisect
import contextlib
from dataclasses import dataclass, field
from typing import Any, Generic

from evolvent.ending import end
from evolvent.folds import Fold, S
from evolvent.log import Log, Record
from evolvent.snapshots import Snapshots
from evolvent_schemas import Fact, RunFinished, RunHalted

REMEMBERED = 512
"""Versions of a state kept in memory; they share structure, so each costs what it changed."""


@dataclass
class History(Generic[S]):
    """The versions that one fold made of a run."""

    tail: "Tail"
    fold: Fold[S]
    folded: int = 0
    _positions: list[int] = field(default_factory=list)
    _versions: list[S] = field(default_factory=list)

    @property
    def latest(self) -> S:
        return self._versions[-1] if self._versions else self.fold.state()

    @property
    def position(self) -> int:
        """Sequence of the last fact that was folded."""
        return self._positions[-1] if self._positions else 0

    async def at(self, sequence: int) -> S:
        """Give the state that holds exactly the facts up to and including this position; waits for the tail."""
        await self.tail.reach(sequence)
        index = bisect.bisect_right(self._positions, sequence) - 1
        return self._versions[index] if index >= 0 else await self._rebuild(sequence)

    async def restore(self) -> None:
        """Begin at the newest snapshot, if there is one."""
        start, state, self.folded = await self.tail.snapshots.load(self.tail.log, self.fold, self.tail.run)
        self._positions, self._versions = ([start], [state]) if start else ([], [])

    async def take(self, record: Record[Fact]) -> None:
        """Fold a fact, unless this fold does not read it or has it from its snapshot."""
        if record.sequence <= self.position or not self.fold.reads(record.fact):
            return
        state = self.fold.advance(self.latest, record)
        self._positions.append(record.sequence)
        self._versions.append(state)
        self.folded += 1
        if len(self._positions) > 2 * REMEMBERED:
            del self._positions[:REMEMBERED]
            del self._versions[:REMEMBERED]
        # None once the run is over: a tail that begins behind the halt would not learn of it.
        if not self.tail.over and self.tail.snapshots.due(self.fold, self.tail.run, self.folded):
            await self.tail.snapshots.save(self.fold, record, state, self.folded)

    async def _rebuild(self, sequence: int) -> S:
        log, run = self.tail.log, self.tail.run
        start, state, _ = await self.tail.snapshots.load(log, self.fold, run, before=sequence)
        async for record in log.follow(self.fold.filters(run), start=start + 1, until=sequence):
            state = self.fold.advance(state, record)
        return state


@dataclass
class Tail:
    """Follows one run for every fold of this process; each fact is fetched and decoded once."""

    log: Log
    run: str
    snapshots: Snapshots
    histories: dict[str, History[Any]] = field(default_factory=dict)
    halted: asyncio.Event = field(default_factory=asyncio.Event)
    finished: bool = False
    position: int = 0
    asked: int = 0
    """The newest position that a handler was woken at."""
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    _task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether the run was halted or has finished."""
        return self.finished or self.halted.is_set()

    def begin(self) -> asyncio.Task[None]:
        """Start to follow the log, unless that is being done; one that failed is started anew for the next delivery."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        return self._task

    async def reach(self, sequence: int) -> None:
        """Wait until every fold has taken the facts up to this position, which must be one that a fold reads."""
        task = self.begin()
        self.asked = max(self.asked, sequence)
        while self.position < sequence:
            if task.done():
                task.result()
            async with self._moved:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):  # a tail that died must be noticed
                        await self._moved.wait()

    @property
    def behind(self) -> bool:
        """Whether a handler waits for facts that the folds have not taken."""
        return self.position < self.asked

    async def _follow(self) -> None:
        histories = tuple(self.histories.values())
        for history in histories:
            await history.restore()
        self.position = min(history.position for history in histories)
        filters = {name for history in histories for name in history.fold.filters(self.run)}
        async for record in self.log.follow(sorted(filters), start=self.position + 1):
            self._mind(record.fact)
            for history in histories:
                await history.take(record)
            self.position = record.sequence
            async with self._moved:
                self._moved.notify_all()

    def _mind(self, fact: Fact) -> None:
        if isinstance(fact, RunHalted):
            self.halted.set()
        self.finished = self.finished or isinstance(fact, RunFinished)

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)


@dataclass
class Tails:
    """The tails of every run that this process works on."""

    log: Log
    snapshots: Snapshots
    folds: dict[str, Fold[Any]] = field(default_factory=dict)
    _runs: dict[str, Tail] = field(default_factory=dict)

    def register(self, fold: Fold[Any]) -> None:
        """Have a fold kept for every run whose tail begins from now on; before the first, for all."""
        self.folds[fold.name] = fold

    async def of(self, run: str) -> Tail:
        """Find or make the tail of a run; those of finished runs make room."""
        if run not in self._runs:
            for name in [name for name, tail in self._runs.items() if tail.finished]:
                await self._runs.pop(name).close()
            tail = self._runs[run] = Tail(self.log, run, self.snapshots)
            tail.histories = {name: History(tail, fold) for name, fold in self.folds.items()}
        return self._runs[run]

    def open(self) -> list[Tail]:
        """List the runs that are not finished, as far as this process has heard of them."""
        return [tail for tail in self._runs.values() if not tail.finished]

    async def close(self) -> None:
        for tail in self._runs.values():
            await tail.close()
