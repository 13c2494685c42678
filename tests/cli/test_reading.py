"""Reading commands show the log whole, name what is not there, and say what to do next."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import evolvent as api
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[1] / "chaos" / "task"
WIDTH = 80
"""Columns of a terminal as it opens."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A folder with one run that was paused, resumed and finished."""
    folder = tmp_path_factory.mktemp("lab")
    async with api.open(folder / ".evolvent") as opened:
        run = await opened.start(TASK, rounds=6, seed=1, run="first")
        await run.pause()
        await run.resume()
        await run.wait()
    yield folder


def members(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(evolvent("show", "first", "--json", cwd=folder).stdout)["members"]
    return found


def test_tail_names_the_run_that_is_not_there_and_the_nearest(lab: Path) -> None:
    done = evolvent("tail", "-f", "furst", cwd=lab)
    assert 2 == done.returncode
    assert "there is no run 'furst' in .evolvent, did you mean first?" in done.stderr


def test_tail_names_the_type_that_is_not_there_and_the_nearest(lab: Path) -> None:
    done = evolvent("tail", "-f", "--type", "discovery.claim", cwd=lab)
    assert 2 == done.returncode
    assert "no fact has the type 'discovery.claim', did you mean discovery.claimed?" in done.stderr


def test_tail_says_what_each_directive_asks_for(lab: Path) -> None:
    done = evolvent("tail", "first", "--type", "directive.issued", cwd=lab)
    asked = [line.partition('"action":"')[2].partition('"')[0] for line in done.stdout.splitlines()]
    assert ["start", "pause", "resume"] == asked


def test_a_table_that_no_terminal_shows_is_cut_nowhere(lab: Path) -> None:
    long = next(each["motivation"] for each in members(lab) if len(each["motivation"]) > WIDTH)
    shown = evolvent("show", "first", cwd=lab, COLUMNS=str(WIDTH)).stdout
    assert " ".join(long.split()) in shown
    assert "…" not in shown + evolvent("runs", cwd=lab, COLUMNS=str(WIDTH)).stdout


def test_a_candidate_takes_one_line_of_a_narrow_terminal(lab: Path) -> None:
    lines = evolvent("show", "first", cwd=lab, COLUMNS=str(WIDTH), TTY_COMPATIBLE="1").stdout.splitlines()
    assert 3 + len(members(lab)) == len(lines)
    assert {WIDTH} == {len(line) for line in lines[3:]}


def test_a_run_takes_one_line_of_a_narrow_terminal_and_is_not_cut(lab: Path) -> None:
    lines = evolvent("runs", cwd=lab, COLUMNS=str(WIDTH), TTY_COMPATIBLE="1").stdout.splitlines()
    assert 2 == len(lines)
    assert "…" not in lines[1]
