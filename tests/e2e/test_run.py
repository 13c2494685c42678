"""The command line carries a real search to its end, and every reading command agrees with the log."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import evolvent

TASK = Path(__file__).parents[2] / "tasks" / "circle_packing"
ROUNDS = 8


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two runs with one seed in one home, the second with a process for each role."""
    folder = tmp_path_factory.mktemp("lab")
    ends = []
    for name, extra in (("first", ()), ("second", ("--processes",))):
        done = evolvent(
            "run", TASK, "--rounds", str(ROUNDS), "--seed", "1", "--run", name, "--json", *extra, cwd=folder
        )
        assert 0 == done.returncode, done.stderr
        ends.append(json.loads(done.stdout))
    return folder, ends


def read(folder: Path, *arguments: str) -> Any:
    done = evolvent(*arguments, "--json", cwd=folder)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def facts(folder: Path, run: str) -> list[dict[str, Any]]:
    done = evolvent("tail", run, "--json", cwd=folder)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_closes_its_rounds_and_beats_its_baseline(lab) -> None:
    for end in lab[1]:
        assert "completed" == end["state"]
        assert ROUNDS == end["rounds"]["closed"]
        assert end["best"]["score"] > end["baseline"]["score"]
        assert (lab[0] / end["best"]["path"]).is_file()
        assert (lab[0] / end["report"]).is_file()


def test_every_round_has_one_opening_and_one_end(lab) -> None:
    types = [(fact["type"], fact["data"]["round"]) for fact in facts(lab[0], "first") if fact["type"][:6] == "round."]
    expected = {"h0", *(str(number) for number in range(ROUNDS))}

    assert len(types) == len(set(types))
    for type_ in ("round.opened", "round.closed"):
        assert expected == {number for found, number in types if found == type_}


def test_two_runs_with_one_seed_make_the_same_decisions(lab) -> None:
    """Width 1 and no model; in one process or in many."""
    decided = ("context.sampled", "candidate.proposed", "candidate.screened")
    first, second = (
        [fact["data"] | {"run": ""} for fact in facts(lab[0], run) if fact["type"] in decided]
        for run in ("first", "second")
    )

    assert first == second


def test_replay_reproduces_every_decision(lab) -> None:
    for run in ("first", "second"):
        audit = read(lab[0], "audit", "replay", run)
        assert audit["reproduced"]
        assert audit["decisions"] > 6 * ROUNDS


def test_why_leads_from_the_round_to_the_result(lab) -> None:
    best = lab[1][0]["best"]["candidate"]
    links = read(lab[0], "why", best, "--run", "first")
    types = [link["type"] for link in links]

    assert "round.opened" == types[0]
    assert "round.closed" == types[-1]
    assert {"context.sampled", "knowledge.retrieved", "candidate.proposed", "experiment.completed"} <= set(types)
    assert {link["because"] for link in links[1:]} <= {link["subject"] for link in links}


def test_reading_commands_agree_with_the_end_of_the_run(lab) -> None:
    folder, (end, _) = lab
    listed = {run["run"]: run for run in read(folder, "runs")}

    assert {"first", "second"} == set(listed)
    assert end["best"]["score"] == listed["first"]["best"]["score"] == read(folder, "best", "first")["score"]
    assert end["rounds"]["closed"] == read(folder, "show", "first")["rounds"]["closed"]


def test_an_unfinished_run_goes_on_where_it_was_cut_off(lab, tmp_path: Path) -> None:
    """A directive that nobody has answered yet is a run that has not begun; `run RUN` carries it to its end."""
    started = evolvent("start", TASK, "--rounds", "2", "--seed", "3", "--run", "later", "--json", cwd=tmp_path)
    assert {"run": "later", "begun": False} == json.loads(started.stdout)

    done = evolvent("run", "later", "--json", cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert 2 == json.loads(done.stdout)["rounds"]["closed"]


def test_what_cannot_be_done_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    for arguments, words in (
        (("run", "./nowhere"), "no task.toml"),
        (("run", "nobody"), "no run 'nobody'"),
        (("run", TASK, "--rounds", "5", "--width", "99"), "width"),
        (("run", TASK, "--sampler", "best"), "sampler"),
        (("why", "1.0"), "no run"),
    ):
        done = evolvent(*arguments, cwd=tmp_path)
        assert 2 == done.returncode, done.stderr
        assert words in done.stderr
