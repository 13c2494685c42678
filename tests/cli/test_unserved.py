"""Where no conductor is at work, every command says so and what to do about it."""

import asyncio
import json
import sys
from pathlib import Path

import evolvent as api
from evolvent import runs, task
from evolvent.platform import Platform
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[2] / "tasks" / "circle_packing"
LONG = Path(__file__).parents[1] / "chaos" / "task"
PLAN = runs.Plan(task.load(TASK), 1, {"rounds": 1})


def state(folder: Path, *words: str) -> str:
    """Read the state of the only run as a command tells it."""
    found = json.loads(evolvent(*words, "--json", cwd=folder).stdout)
    return str((found[0] if isinstance(found, list) else found)["state"])


def test_a_run_that_nobody_begins_is_listed_as_waiting_and_not_watched(tmp_path: Path) -> None:
    started = evolvent("start", TASK, "--rounds", "1", "--run", "later", cwd=tmp_path)
    assert 0 == started.returncode
    assert (
        "no conductor is at work; run later begins when one serves, or here with: evolvent run later" in started.stdout
    )

    (listed,) = json.loads(evolvent("runs", "--json", cwd=tmp_path).stdout)
    assert ("later", "waiting", None) == (listed["run"], listed["state"], listed["started"])

    watched = evolvent("watch", cwd=tmp_path)
    assert 2 == watched.returncode
    assert "evolvent run later" in watched.stderr


async def test_a_run_whose_process_has_ended_is_cut_off_and_one_that_is_served_is_running(tmp_path: Path) -> None:
    async with api.open(tmp_path / ".evolvent") as lab:
        run = await lab.start(LONG, rounds=100_000, seed=1, run="long")
        states = [await asyncio.to_thread(state, tmp_path, *words) for words in (("runs",), ("show", run.id))]
        assert ["running", "running"] == states
    states = [await asyncio.to_thread(state, tmp_path, *words) for words in (("runs",), ("show", run.id))]
    assert ["cut off", "cut off"] == states
    shown = await asyncio.to_thread(evolvent, "show", run.id, cwd=tmp_path)
    assert "go on with: evolvent run long" in shown.stdout


async def test_watching_a_run_on_a_server_without_a_conductor_says_that_it_waits(platform: Platform) -> None:
    await runs.start(platform, PLAN, "later")
    command = [str(Path(sys.executable).parent / "evolvent"), "watch", "--home", str(platform.settings.home)]
    watching = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        assert watching.stderr is not None
        said = await asyncio.wait_for(watching.stderr.readline(), 60)
    finally:
        watching.kill()
        await watching.wait()
    assert b"no conductor is at work; run later begins" in said
