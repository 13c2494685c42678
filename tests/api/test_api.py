"""The Python API against a real home: its names, its snippet, and what happens when hosts come and go."""

import asyncio
import inspect
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import evolvent
from evolvent.hosting import hosting
from evolvent.settings import Settings
from evolvent_schemas import Fact, RoundClosed, RunFinished, RunHalted, RunSteered

ROOT = Path(__file__).parents[2]
TASK = ROOT / "tests" / "chaos" / "task"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[evolvent.Lab]:
    async with evolvent.open(tmp_path / "home") as opened:
        yield opened


async def facts_of(run: evolvent.Run) -> list[Fact]:
    async with asyncio.timeout(60):
        return [fact async for fact in run.facts()]


def test_the_public_names_are_these() -> None:
    assert ["Best", "EvolventError", "Lab", "Refused", "Run", "Unreachable", "open"] == evolvent.__all__
    assert {"start", "run", "runs", "close", "settings"} >= public(evolvent.Lab)
    assert public(evolvent.Run) == {
        "facts", "wait", "summary", "best", "report", "steer", "pause", "resume", "halt", "submit",
    }  # fmt: skip


def public(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


def test_importing_it_loads_nothing() -> None:
    """A program that may never start a run must not pay for one."""
    code = "import sys; before = set(sys.modules); import evolvent; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"evolvent"}
    assert [name for name in loaded if name.startswith("evolvent")] == ["evolvent"]


def test_every_public_name_can_be_loaded_and_no_other() -> None:
    for name in evolvent.__all__:
        assert getattr(evolvent, name)
    with pytest.raises(AttributeError, match="no attribute 'laboratory'"):
        _ = evolvent.laboratory  # type: ignore[attr-defined]


def test_the_documented_snippet_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- python: start -->\n```python\n(.*?)```\n<!-- python: end -->", page, re.DOTALL)
    assert found is not None
    (tmp_path / "tasks").symlink_to(ROOT / "tasks")
    (tmp_path / "snippet.py").write_text(found[1])
    done = subprocess.run(
        [sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True, timeout=80, check=False
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["h0", "0", "1", "2", "3", "4"]
    assert "def pack" in done.stdout
    assert done.stderr == ""


async def test_facts_come_in_order_each_once_until_the_run_has_finished(lab: evolvent.Lab) -> None:
    run = await lab.start(TASK, rounds=4, seed=1)
    facts = await facts_of(run)

    assert isinstance(facts[-1], RunFinished)
    assert 1 == max(Counter(fact.subject for fact in facts).values())
    assert 5 == sum(isinstance(fact, RoundClosed) for fact in facts)
    again = await facts_of(await lab.run(run.id))
    assert facts == again
    assert [run.id] == await lab.runs()


async def test_the_best_is_what_the_run_ended_with(lab: evolvent.Lab) -> None:
    run = await lab.start(TASK, rounds=4, seed=1)
    async with asyncio.timeout(60):
        finished = await run.wait()
    best = await run.best()

    assert finished.best is not None
    assert (best.candidate, best.score) == (finished.best.candidate, finished.best.score)
    assert "def point" in best.files["program.py"]
    assert (await run.report()).standing.best is not None
    assert "completed" == (await run.summary()).state


async def test_a_run_can_be_paused_steered_resumed_and_halted(lab: evolvent.Lab) -> None:
    run = await lab.start(TASK, rounds=400, seed=1)
    async for fact in run.facts():
        if fact.type == "round.closed":
            break
    answers = [await run.pause("look"), await run.steer("stay near"), await run.resume(), await run.halt("enough")]
    facts = await facts_of(run)

    assert [answer.type if answer else None for answer in answers] == [
        "run.paused", "run.steered", "run.resumed", "run.halted",
    ]  # fmt: skip
    assert ["stay near"] == [fact.text for fact in facts if isinstance(fact, RunSteered)]
    assert ["enough"] == [fact.reason for fact in facts if isinstance(fact, RunHalted)]
    with pytest.raises(evolvent.Refused, match="halted"):
        await run.pause()


async def test_what_cannot_be_done_is_refused_by_name(lab: evolvent.Lab, tmp_path: Path) -> None:
    with pytest.raises(evolvent.Refused, match="there is no run 'nobody'"):
        await lab.run("nobody")
    with pytest.raises(evolvent.Refused, match="has no task"):
        await lab.start(tmp_path)
    with pytest.raises(evolvent.Refused, match="widht"):
        await lab.start(TASK, widht=2)


async def test_a_run_whose_baseline_fails_has_no_best(lab: evolvent.Lab, tmp_path: Path) -> None:
    shutil.copytree(TASK, tmp_path / "task")
    (tmp_path / "task" / "baseline" / "program.py").write_text("def point():\n    raise ValueError\n")
    run = await lab.start(tmp_path / "task")
    async with asyncio.timeout(60):
        assert "failed" == (await run.wait()).state

    with pytest.raises(evolvent.Refused, match="no measured candidate"):
        await run.best()


async def test_a_second_lab_attaches_and_takes_over_without_losing_a_fact(tmp_path: Path) -> None:
    """The host's end is no end of the run for who only attached to it."""
    settings = Settings(home=tmp_path / "home", ack_wait=1.0)
    up, leave = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        async with hosting(settings, processes=False):
            up.set()
            await leave.wait()

    hosted = asyncio.create_task(other())
    await up.wait()
    async with evolvent.open(settings.home, ack_wait=1.0) as lab:
        run = await lab.start(TASK, rounds=20, seed=1)
        facts = []
        async with asyncio.timeout(60):
            async for fact in run.facts():
                facts.append(fact)
                if isinstance(fact, RoundClosed) and fact.round == "3":
                    leave.set()
    await hosted

    assert isinstance(facts[-1], RunFinished)
    assert 21 == sum(isinstance(fact, RoundClosed) for fact in facts)
    assert 1 == max(Counter(fact.subject for fact in facts).values())


async def test_a_closed_lab_says_so(tmp_path: Path) -> None:
    async with evolvent.open(tmp_path / "home") as lab:
        run = await lab.start(TASK, rounds=1, seed=1)

    with pytest.raises(evolvent.EvolventError, match="is closed"):
        await run.summary()


async def test_an_unfinished_run_goes_on_when_its_home_is_opened_again(tmp_path: Path) -> None:
    async with evolvent.open(tmp_path / "home", ack_wait=1.0) as lab:
        run = await lab.start(TASK, rounds=30, seed=1)
        async for fact in run.facts():
            if fact.type == "round.closed":
                break
    async with evolvent.open(tmp_path / "home", host=False) as lab:
        assert "running" == (await (await lab.run(run.id)).summary()).state
    async with evolvent.open(tmp_path / "home", ack_wait=1.0) as lab, asyncio.timeout(60):
        assert 30 == (await (await lab.run(run.id)).wait()).rounds_closed
