"""Progress of a long experiment, from what its program prints to the line that a person sees."""

import asyncio
import sys
from pathlib import Path

import pytest

from evolvent import runs
from evolvent.embedded import Server as NatsServer
from evolvent.platform import Platform
from evolvent.serve import factory
from evolvent_engineer.progress import Progress, reported
from evolvent_schemas import Halt
from tests.kubernetes.test_wiring import at_work, begun, others

SLOW = """
import json, time

def point():
    for step in range(130):
        print(json.dumps({"step": step, "loss": 0.5}))
        time.sleep(0.1)
    return (0.5, 0.5)
"""
WATCH = "import sys; from evolvent.cli import main; sys.argv[1:1] = ['watch']; main()"


@pytest.mark.parametrize(
    ("output", "numbers"),
    [
        ('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.0}\n{"ste', {"step": 2, "loss": 2.0}),
        ('{"loss": 1}\n', {}),
        ('{"step": NaN, "loss": Infinity}\n', {}),
        ('{"step": 1, "note": "x", "on": true, "list": [1]}', {"step": 1}),
        ('{"step": 1, "' + "x" * 41 + '": 2}', {"step": 1}),
        ('{"step": 1, "large": 1' + "0" * 400 + "}", {"step": 1}),
        ('{"step": 1}\n' + "[" * 100_000, {"step": 1}),
        ('{"step":' + "[" * 100_000, {}),
        ("", {}),
    ],
)
def test_progress_is_the_newest_line_of_finite_numbers_with_a_step(output: str, numbers: dict[str, float]) -> None:
    assert numbers == reported(output)


def test_a_program_cannot_flood_those_who_watch() -> None:
    assert 16 == len(reported('{"step": 1, ' + ", ".join(f'"n{k}": {k}' for k in range(99)) + "}"))


async def test_progress_without_a_connection_is_dropped(platform: Platform) -> None:
    report = Progress(platform.wire).of("r1", "1.0.explore.0.0")
    await platform.wire.client.close()
    await report({"step": 1.0})


async def test_a_long_local_experiment_shows_in_watch(platform: Platform, bus: NatsServer, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    _slow_task(folder)
    async with at_work(platform, *others(platform), factory("engineer")(platform)):
        run = await begun(platform, folder, rounds=1)
        command = [sys.executable, "-c", WATCH, run, "--home", str(platform.settings.home)]
        watching = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert watching.stdout is not None
        async with asyncio.timeout(40):
            while b"loss" not in (line := await watching.stdout.readline()):
                assert line, "watch ended"
        await runs.issue(platform, run, Halt())
        await watching.communicate()
    assert line.startswith("  … h0.0 explore, seed 0: 1".encode()), line
    assert b"loss 0.5" in line


def _slow_task(folder: Path) -> None:
    source = Path(__file__).parents[1] / "chaos" / "task"
    (folder / "baseline").mkdir(parents=True)
    for name in ("task.toml", "brief.md", "evaluate.py"):
        (folder / name).write_text((source / name).read_text())
    (folder / "baseline" / "program.py").write_text(SLOW)
