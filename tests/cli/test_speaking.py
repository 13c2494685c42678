"""What is said to a run is answered by its conductor, and what has to wait is said to wait."""

import asyncio
import json
from pathlib import Path

import evolvent as api
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[1] / "chaos" / "task"
PROGRAM = "def pack():\n    return []\n"


async def test_a_program_submitted_to_a_paused_run_is_held_until_the_run_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ("submit", "r1", "program.py")
    async with api.open(tmp_path / ".evolvent") as lab:
        run = await lab.start(TASK, rounds=1, seed=1, run="r1")
        await run.pause()
        plain = await asyncio.to_thread(evolvent, *words, cwd=tmp_path)
        assert (0, "held until the run is resumed: evolvent resume r1\n") == (plain.returncode, plain.stdout)
        told = json.loads((await asyncio.to_thread(evolvent, *words, "--json", cwd=tmp_path)).stdout)
        assert (None, True) == (told["answer"], told["held"])

        await run.resume()
        async with asyncio.timeout(60):
            opened = [fact.round async for fact in run.facts() if fact.type == "round.opened"]
    assert {"h1", "h2"} <= set(opened)
