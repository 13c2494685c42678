"""Where no conductor is at work, every command says so and what to do about it."""

import asyncio
import json
import sys
from pathlib import Path

from evolvent import runs, task
from evolvent.platform import Platform
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[2] / "tasks" / "circle_packing"
PLAN = runs.Plan(task.load(TASK), 1, {"rounds": 1})


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
