"""A sample of the kills, drawn anew for each commit, and the faults that the matrix does not have."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from evolvent import audit, runs
from evolvent.children import spawn
from evolvent.embedded import embedded
from evolvent.hosting import attached
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_schemas import Halt, RoundClosed, RunFinished, filter_for
from tests.chaos.ring import TASK, Cell, Ring, carry, check, check_log, matrix, ring
from tests.processes import descendants, still_there

SAMPLE = 6
pytestmark = pytest.mark.asyncio(loop_scope="module")


def _seed() -> int:
    """Rotate with the commit, so that the sample walks through the matrix; EVOLVENT_CHAOS_SEED repeats one."""
    if (given := os.environ.get("EVOLVENT_CHAOS_SEED")) is not None:
        return int(given)
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    return int(found[:8] or "1", 16) % 10_000


def _sample() -> list[Cell]:
    """Draw a cell for every target and some hand-over."""
    chance = random.Random(_seed())
    cells = matrix([_seed()])
    chance.shuffle(cells)
    drawn = {cell.target: cell for cell in cells}
    return list(drawn.values())[:SAMPLE]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ring]:
    async with ring(tmp_path_factory.mktemp("ring") / "home") as found:
        yield found


@pytest.mark.parametrize("cell", _sample(), ids=str)
async def test_a_killed_process_loses_and_repeats_nothing(running: Ring, cell: Cell) -> None:
    print(f"EVOLVENT_CHAOS_SEED={_seed()}")
    await carry(running, cell)


async def test_two_replicas_of_every_role_lose_and_repeat_nothing(running: Ring) -> None:
    """The second set is what anybody would start by hand; half of it is killed while the run goes."""
    async with _replicas(running) as replicas:
        await running.start("two", seed=5, rounds=12)
        await running.seen("two", "round.closed", 4)
        for role in ("conductor", "engineer"):
            replicas[role].kill()
        await running.kill("researcher")
        await running.ended("two")
    await check(running, "two", rounds=12)


@contextlib.asynccontextmanager
async def _replicas(running: Ring) -> AsyncIterator[dict[str, asyncio.subprocess.Process]]:
    environment = os.environ | {"EVOLVENT_HOME": str(running.settings.home), "EVOLVENT_ACK_WAIT": "1.0"}
    found = {}
    with (running.settings.home / "logs" / "replicas.jsonl").open("ab") as output:
        for role in ROLES:
            command = [sys.executable, "-m", f"evolvent_{role}"]
            found[role] = await spawn(command, env=environment, stdout=output, stderr=output)
    try:
        yield found
    finally:
        for process in found.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_a_halted_run_ends_and_keeps_what_it_has(running: Ring) -> None:
    await running.start("halted", seed=6, rounds=400)
    await running.seen("halted", "round.closed", 2)
    await runs.issue(running.platform, "halted", Halt())
    await running.ended("halted")
    records = await running.platform.log("chaos").run("halted")
    (finished,) = [record.fact for record in records if isinstance(record.fact, RunFinished)]

    assert "halted" == finished.state
    assert finished.rounds_closed < 400
    assert (await audit.replay(running.platform, "halted", ROLES)).reproduced


async def test_the_host_takes_everything_with_it_when_it_is_killed(running: Ring) -> None:
    """The last test: afterwards nothing runs."""
    await running.start("last", seed=8, rounds=50)
    await running.seen("last", "experiment.completed", 2)
    family = descendants(running.process.pid)
    running.process.kill()
    await running.process.wait()

    assert len(family) > 6
    assert [] == await asyncio.to_thread(still_there, family, 1.0)


async def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    """`evolvent run --processes` is killed with all it started; the same run is then carried to its end."""
    home = tmp_path / "home"
    settings = Settings(home=home)
    command = await _evolvent(home, str(TASK), "--rounds", "6", "--seed", "9", "--run", "again")
    async with attached(settings) as platform:
        await _closed(platform, "again", 1)
    family = descendants(command.pid)
    command.kill()
    await command.wait()
    assert [] == await asyncio.to_thread(still_there, family, 1.0)
    command = await _evolvent(home, "again")
    said, _ = await command.communicate()
    outcome = json.loads(said)
    async with embedded(settings), open_platform(settings, "test") as platform:
        check_log(await platform.log("test").run("again"), 6)
        found = await audit.replay(platform, "again", ROLES)

    assert ("again", "completed", 6) == (outcome["run"], outcome["state"], outcome["rounds"]["closed"])
    assert found.reproduced, found.findings


async def _evolvent(home: Path, *arguments: str) -> asyncio.subprocess.Process:
    program = "from evolvent.cli import main; main()"
    options = ["--home", str(home), "--processes", "--json"]
    return await spawn(
        [sys.executable, "-c", program, "run", *arguments, *options],
        stdout=subprocess.PIPE,
        env=os.environ | {"EVOLVENT_ACK_WAIT": "1.0"},
    )


async def _closed(platform: Platform, run: str, count: int) -> None:
    async with asyncio.timeout(60):
        async for _ in platform.log("test").follow([filter_for(RoundClosed, run)]):
            count -= 1
            if count == 0:
                return
