"""Kill -9 a process of the ring at the moment a chosen fact appears on the log, and check that nothing was lost."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolvent import audit, runs, task
from evolvent.children import spawn
from evolvent.hosting import attached
from evolvent.log import DEAD_STREAM, Record
from evolvent.platform import Platform
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_schemas import Fact, HandlingFailed, RoundClosed, RoundOpened, RunFinished, subjects
from tests.processes import Process, child, descendants, still_there

TASK = Path(__file__).parent / "task"
ROUNDS, WIDTH = 4, 2
ACK_WAIT = 1.0
"""Seconds after which what a killed replica held goes to another; short, so that a cell takes seconds."""
PATIENCE = 90.0
"""Seconds a run has to end after a kill; without one it takes about one."""
TARGETS = (*ROLES, "server")
HAND_OVERS = (
    "directive.issued",
    "run.started",
    "knowledge.ingested",
    "round.opened",
    "context.sampled",
    "knowledge.retrieved",
    "candidate.proposed",
    "candidate.screened",
    "experiment.started",
    "experiment.completed",
    "candidate.analyzed",
    "round.closed",
)
"""Every fact of the ring, in the order of a round: each is handed from one role to another."""


@dataclass(frozen=True)
class Cell:
    """One fault: whom to kill, when, and the seed that chooses which such fact and how many milliseconds after it."""

    target: str
    moment: str
    seed: int

    @property
    def run(self) -> str:
        return f"c{self.seed}-{TARGETS.index(self.target)}-{HAND_OVERS.index(self.moment)}"

    def __str__(self) -> str:
        return f"{self.target} at {self.moment}, seed {self.seed}"


def matrix(seeds: Sequence[int]) -> list[Cell]:
    """List every target at every hand-over."""
    return [Cell(target, moment, seed) for seed in seeds for moment in HAND_OVERS for target in TARGETS]


@dataclass
class Ring:
    """The roles as processes over one home, and a connection of our own to watch them."""

    settings: Settings
    process: asyncio.subprocess.Process
    platform: Platform

    def find(self, target: str) -> Process | None:
        words = "nats-server -c" if target == "server" else f"-m evolvent_{target}"
        return child(self.process.pid, words)

    def _await(self, target: str) -> Process:
        """Find a target, which may just be being started again."""
        deadline = time.monotonic() + 20
        while (found := self.find(target)) is None:
            assert time.monotonic() < deadline, f"the supervisor has not started {target} again"
            time.sleep(0.02)
        return found

    async def kill(self, target: str) -> list[Process]:
        """Kill a role or the server with all that it started, and list what is left of it a second later."""
        victim = await asyncio.to_thread(self._await, target)
        family = [victim, *descendants(victim.pid)]
        victim.kill()
        return await asyncio.to_thread(still_there, family, 1.0)

    async def start(self, run: str, seed: int, rounds: int = ROUNDS) -> str:
        plan = runs.Plan(task.load(TASK), seed, {"rounds": rounds}, {"width": WIDTH})
        return await runs.start(self.platform, plan, run)

    async def seen(self, run: str, moment: str, count: int) -> None:
        """Return once the `count`-th fact of this type is on the log, or the run is over."""
        async for record in self.platform.log("user").follow([subjects.of_run(run)]):
            count -= record.fact.type == moment
            if count <= 0 or isinstance(record.fact, RunFinished):
                return

    async def ended(self, run: str) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.seen(run, "run.finished", 1)

    async def dead_letters(self) -> int:
        info = await self.platform.wire.api(f"STREAM.INFO.{DEAD_STREAM}")
        return int(info["state"]["messages"])


@contextlib.asynccontextmanager
async def ring(home: Path) -> AsyncIterator[Ring]:
    """Start the server and every role as processes, wait until they work, and end them without a trace."""
    await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
    settings = Settings(home=home, ack_wait=ACK_WAIT, retry_delay=0.1)
    environment = os.environ | {
        "EVOLVENT_HOME": str(home),
        "EVOLVENT_ACK_WAIT": str(ACK_WAIT),
        "EVOLVENT_RETRY_DELAY": "0.1",
    }
    with (home / "host.log").open("ab") as output:
        command = [sys.executable, "-m", "tests.chaos.host"]
        process = await spawn(command, env=environment, stdout=output, stderr=output)
    try:
        async with attached(settings) as platform:
            yield Ring(settings, process, platform)
    finally:
        family = descendants(process.pid)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        left = await asyncio.to_thread(still_there, family, 2.0)
        assert not left, f"left behind by the host: {left}"


async def carry(ring: Ring, cell: Cell) -> float:
    """Carry one run through one fault, check what must hold, and give the seconds it took.

    Raises:
        AssertionError: something was lost, done twice, or left behind.
    """
    chance = random.Random(str(cell))
    began = time.monotonic()
    buried = await ring.dead_letters()
    once = cell.moment in {"directive.issued", "run.started", "knowledge.ingested"}
    watching = asyncio.create_task(ring.seen(cell.run, cell.moment, 1 if once else chance.randint(1, ROUNDS)))
    await ring.start(cell.run, cell.seed)
    async with asyncio.timeout(PATIENCE):
        await watching
    await asyncio.sleep(chance.choice((0, 0.001, 0.003, 0.01, 0.03)))
    left = await ring.kill(cell.target)
    await ring.ended(cell.run)
    assert not left, f"the killed {cell.target} left {left}"
    await check(ring, cell.run, buried=buried)
    return time.monotonic() - began


async def check(ring: Ring, run: str, *, buried: int = 0, rounds: int = ROUNDS) -> None:
    """Check that a run lost nothing and did nothing twice."""
    records = await ring.platform.log("chaos").run(run)
    check_log(records, rounds)
    assert await ring.dead_letters() == buried, "a message was buried"
    found = await audit.replay(ring.platform, run, ROLES)
    assert found.reproduced, found.findings


def check_log(records: Sequence[Record[Fact]], rounds: int) -> None:
    """Check the log of a finished run by itself: each fact once, each round opened and closed once."""
    twice = [subject for subject, count in Counter(record.fact.subject for record in records).items() if count > 1]
    assert not twice, f"on the log more than once: {twice}"
    failed = [record.fact.error for record in records if isinstance(record.fact, HandlingFailed)]
    assert not failed, failed
    opened = [record.fact.round for record in records if isinstance(record.fact, RoundOpened)]
    closed = [record.fact.round for record in records if isinstance(record.fact, RoundClosed)]
    expected = sorted(["h0", *map(str, range(rounds))])
    assert sorted(opened) == expected, opened
    assert sorted(closed) == expected, closed
    finished = [record.fact for record in records if isinstance(record.fact, RunFinished)]
    assert [("completed", rounds)] == [(fact.state, fact.rounds_closed) for fact in finished]
    retried = [record.fact.subject for record in records if getattr(record.fact, "attempt", 0)]
    assert not retried, f"an experiment was blamed on the infrastructure: {retried}"
