"""Reading commands show the log whole, name what is not there, and say what to do next."""

import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import typer
from typer.core import TyperGroup

import evolvent as api
from evolvent.cli import read, report, run, speak  # noqa: F401 - each registers its commands
from evolvent.cli.app import app
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[1] / "chaos" / "task"
WIDTH = 80
"""Columns of a terminal as it opens."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A folder with runs: one that is always the same, one of a single round, one paused, resumed and halted."""
    folder = tmp_path_factory.mktemp("lab")
    async with api.open(folder / ".evolvent") as opened:
        await (await opened.start(TASK, rounds=6, seed=1, width=1, run="first")).wait()
        await (await opened.start(TASK, rounds=1, seed=1, run="short")).wait()
        halted = await opened.start(TASK, rounds=100_000, seed=1, run="halted")
        await halted.pause()
        await halted.resume()
        await halted.halt()
        await halted.wait()
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
    done = evolvent("tail", "halted", "--type", "directive.issued", cwd=lab)
    asked = [line.partition('"action":"')[2].partition('"')[0] for line in done.stdout.splitlines()]
    assert ["start", "pause", "resume", "halt"] == asked


def test_a_table_that_no_terminal_shows_is_cut_nowhere(lab: Path) -> None:
    long = next(each["motivation"] for each in members(lab) if len(each["motivation"]) > WIDTH)
    shown = evolvent("show", "first", cwd=lab, COLUMNS=str(WIDTH)).stdout
    assert " ".join(long.split()) in shown
    assert "…" not in shown + evolvent("runs", cwd=lab, COLUMNS=str(WIDTH)).stdout


def test_a_candidate_takes_one_line_of_a_narrow_terminal(lab: Path) -> None:
    lines = evolvent("show", "first", cwd=lab, COLUMNS=str(WIDTH), TTY_COMPATIBLE="1").stdout.splitlines()
    assert 2 + len(members(lab)) == len(lines)
    assert {WIDTH} == {len(line) for line in lines[2:]}


def test_a_run_takes_one_line_of_a_narrow_terminal_and_is_not_cut(lab: Path) -> None:
    lines = evolvent("runs", cwd=lab, COLUMNS=str(WIDTH), TTY_COMPATIBLE="1").stdout.splitlines()
    assert 4 == len(lines)
    assert "…" not in "".join(lines)


def test_why_has_words_for_every_fact_that_a_round_is_made_of(lab: Path) -> None:
    found = [
        link
        for each in members(lab)
        for link in json.loads(evolvent("why", each["candidate"], "--run", "first", "--json", cwd=lab).stdout)
    ]
    assert {"discovery.claimed", "candidate.proposed", "run.finished"} <= {link["type"] for link in found}
    assert [] == [link["type"] for link in found if not link["says"] or ".;" in link["says"]]


def test_the_end_of_a_run_counts_its_rounds_and_says_why_once(lab: Path) -> None:
    assert "short completed: 1 round closed, " in evolvent("watch", "short", cwd=lab).stdout
    assert "halted halted: by local (" in evolvent("watch", "halted", cwd=lab).stdout


def test_a_candidate_in_the_place_of_a_run_is_told_where_it_belongs(lab: Path) -> None:
    done = evolvent("show", "2.0", cwd=lab)
    assert 2 == done.returncode
    assert "`evolvent show RUN 2.0`" in done.stderr


def test_an_empty_home_says_how_a_run_is_made(tmp_path: Path) -> None:
    done = evolvent("runs", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stdout)
    assert "`evolvent run TASK`" in done.stderr


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert f"evolvent {version('evolvent')}\n" == evolvent("--version", cwd=tmp_path).stdout


def test_every_argument_is_spelled_in_capitals() -> None:
    context = typer.Context(group := typer.main.get_command(app))
    assert isinstance(group, TyperGroup)
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    arguments = [
        each for command in commands if command for each in command.params if each.param_type_name == "argument"
    ]
    assert len(arguments) > 10
    assert [] == [each.make_metavar(context) for each in arguments if each.metavar != str(each.metavar).upper()]
