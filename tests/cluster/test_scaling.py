"""Roles run while a run is open and stop when none is; an open run never loses the replica that watches it."""

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evolvent import acl, runs, task
from evolvent.children import spawn
from evolvent.ending import end
from evolvent.log import STREAM
from evolvent.platform import Platform, open_platform
from evolvent.provision import OPEN_RUNS, ROLES
from evolvent_schemas import Fact, HandlingFailed, RoundExpired, RoundOpened, RunFinished, filter_for, subjects
from tests.cluster.scaler import Scaler
from tests.cluster.servers import Guarded, guarded
from tests.platform.servers import free_ports

TASK = Path(__file__).parents[2] / "bench" / "tasks" / "instant"
NOBODY = {f"evolvent-{role}": 0 for role in ROLES}
LEAST = {f"evolvent-{role}": 2 if role in {"conductor", "engineer"} else 1 for role in ROLES}


@dataclass
class Deployments:
    """The roles as processes under their own users, as many as they are told."""

    bus: Guarded
    running: dict[str, list[asyncio.subprocess.Process]] = field(default_factory=lambda: defaultdict(list))
    started: Counter[str] = field(default_factory=Counter)

    async def scale(self, name: str, count: int) -> None:
        found = self.running[name]
        while len(found) < count:
            found.append(await self._start(name.removeprefix("evolvent-")))
            self.started[name] += 1
        surplus = found[count:]
        for process in surplus:
            process.send_signal(signal.SIGTERM)
        assert [0] * len(surplus) == [await process.wait() for process in surplus]
        del found[count:]

    async def _start(self, role: str) -> asyncio.subprocess.Process:
        settings = self.bus.settings(role)
        values = settings.model_dump(mode="json", exclude_defaults=True) | {
            "nats_password": settings.endpoint().password
        }
        environment = {f"EVOLVENT_{name.upper()}": str(value) for name, value in values.items()}
        return await spawn([sys.executable, "-m", f"evolvent_{role}"], env=os.environ | environment)

    async def close(self) -> None:
        for process in (each for found in self.running.values() for each in found):
            process.kill()
            await process.wait()


@dataclass(frozen=True)
class Cluster:
    bus: Guarded
    scaler: Scaler
    deployments: Deployments
    user: Platform

    async def start(self, rounds: int, **options: object) -> str:
        return await runs.start(self.user, runs.Plan(task.load(TASK), 1, {"rounds": rounds}, {"width": 2, **options}))

    async def wait_for_the_engineer(self, **options: object) -> str:
        """Begin a run that stands still: its baseline waits for an engineer, and there is none."""
        await self.deployments.scale("evolvent-conductor", 1)
        await self.deployments.scale("evolvent-cognition", 1)
        run = await self.start(rounds=6, **options)
        await self.first(RoundOpened, run)
        return run

    async def first(self, cls: type[Fact], run: str) -> Fact:
        async with asyncio.timeout(60):
            async for record in self.user.log("user").follow([filter_for(cls, run)]):
                return record.fact
        raise AssertionError("a log that is followed has no end")

    async def until_lag(self, consumer: str, wanted: int) -> None:
        async with asyncio.timeout(60):
            while await self.scaler.lag(acl.ACCOUNT, STREAM, consumer) != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def obey(self) -> None:
        """Scale as the scaler wants, until cancelled."""
        while True:
            for name, count in (await self.scaler.wanted()).items():
                await self.deployments.scale(name, count)
            await asyncio.sleep(0.2)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    (port,) = free_ports(1)
    async with guarded(tmp_path, 1, f"http: 127.0.0.1:{port}\n") as bus:
        deployments = Deployments(bus)
        async with open_platform(bus.settings("user"), "user") as user:
            try:
                yield Cluster(bus, Scaler(port), deployments, user)
            finally:
                await deployments.close()


async def test_a_run_wakes_every_role_from_zero_and_leaves_none_behind(cluster: Cluster) -> None:
    assert NOBODY == await cluster.scaler.wanted()
    obeying = asyncio.create_task(cluster.obey())
    run = await cluster.start(rounds=6)

    finished = await cluster.first(RunFinished, run)

    async with asyncio.timeout(60):
        while any(cluster.deployments.running.values()) and not obeying.done():  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)
    await end(obeying)
    assert isinstance(finished, RunFinished)
    assert 6 == finished.rounds_closed
    records = await cluster.user.log("user").run(run)
    assert [] == [record.fact for record in records if isinstance(record.fact, HandlingFailed | RoundExpired)]
    assert set(NOBODY) == set(cluster.deployments.started)
    assert NOBODY == await cluster.scaler.wanted()


async def test_an_open_run_keeps_the_least_of_every_role_while_nobody_has_work(cluster: Cluster) -> None:
    run = await cluster.wait_for_the_engineer()

    await cluster.until_lag("conductor", 0)

    assert LEAST == await cluster.scaler.wanted()
    assert await cluster.user.log("user").read(subjects.fact(run, "run.finished")) is None


async def test_a_run_whose_conductor_was_killed_stays_open_and_the_next_expires_its_rounds(cluster: Cluster) -> None:
    run = await cluster.wait_for_the_engineer(round_seconds=6.0)
    (killed,) = cluster.deployments.running.pop("evolvent-conductor")
    killed.kill()
    await killed.wait()
    assert 1 == await cluster.scaler.lag(acl.ACCOUNT, STREAM, OPEN_RUNS)

    await cluster.deployments.scale("evolvent-conductor", 1)

    assert isinstance(await cluster.first(RoundExpired, run), RoundExpired)
    await cluster.first(RunFinished, run)
    await cluster.until_lag(OPEN_RUNS, 0)
