"""`evolvent task new` gives a task that works; `evolvent task check` lets no task pass that can be cheated."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.shell import checks, evolvent

CASES = ("crash", "hang", "nan", "infinity", "huge", "negative", "tamper", "forge", "lie")
UNSAFE = "--allow-unsafe-sandbox"
"""Changes nothing where candidates can be contained."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `task new` lays out."""
    folder = tmp_path_factory.mktemp("fresh")
    done = evolvent("task", "new", "points", cwd=folder)
    assert 0 == done.returncode, done.stderr
    return folder / "points"


@pytest.fixture
def task(fresh: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(fresh, tmp_path / "points"))


def check(task: Path) -> tuple[int, dict]:
    done = evolvent("task", "check", task, "--json", UNSAFE, cwd=task.parent)
    assert done.stdout, done.stderr
    assert [] == list((task.parent / ".evolvent" / "work").iterdir()), "a check leaves nothing behind"
    return done.returncode, checks(done)


def failed(found: dict) -> set[str]:
    return {name for name, one in found.items() if one["verdict"] == "fail"}


def evaluator(task: Path, lines: str) -> None:
    """Replace how the task computes its score from `points`, which it does not check any more."""
    text = (task / "evaluate.py").read_text()
    start = text.index("    points = array(")
    (task / "evaluate.py").write_text(text[:start] + lines)


def test_a_new_task_passes_its_own_check(task: Path):
    code, found = check(task)
    assert {"baseline", "peek", "repeats", *CASES} == set(found)
    assert set() == failed(found)
    assert 0 == code
    assert found["baseline"]["measured"]["score"] == pytest.approx(1 / 11)
    assert {"score", "wall_seconds", "cpu_seconds", "memory_mb"} == set(found["baseline"]["measured"])
    assert "crashed" in found["crash"]["seen"]
    assert "wall_limit" in found["hang"]["seen"]
    assert found["hang"]["measured"]["wall_seconds"] < 5
    assert "invalid" in found["nan"]["seen"]
    assert "protocol" in found["lie"]["seen"]


def test_a_new_task_can_be_searched_at_once(task: Path):
    done = evolvent("run", task, "--rounds", "3", "--seed", "1", "--json", UNSAFE, cwd=task.parent)
    assert 0 == done.returncode, done.stderr
    end = json.loads(done.stdout)
    assert {"closed": 3, "failed": 0} == end["rounds"]
    assert end["best"]["score"] > end["baseline"]["score"]


def test_a_new_task_never_overwrites(task: Path):
    (task / "brief.md").write_text("mine")
    done = evolvent("task", "new", "points", cwd=task.parent)
    assert 2 == done.returncode
    assert "is there already" in done.stderr
    assert "mine" == (task / "brief.md").read_text()


@pytest.mark.parametrize("name", ["Points", "a" * 65])
def test_a_name_that_no_task_may_have_is_refused(name: str, tmp_path: Path):
    done = evolvent("task", "new", name, cwd=tmp_path)
    assert 2 == done.returncode
    assert not (tmp_path / name).exists()


def test_an_unknown_key_is_named_with_the_nearest_valid_one(task: Path):
    text = (task / "task.toml").read_text()
    (task / "task.toml").write_text(text.replace("memory_mb", "memory_md"))
    done = evolvent("task", "check", task, cwd=task.parent)
    assert 2 == done.returncode
    assert "stages.0.limits.memory_md: unknown key, did you mean 'memory_mb'?" in done.stderr


def test_a_missing_file_is_named(task: Path):
    (task / "evaluate.py").unlink()
    done = evolvent("task", "check", task, cwd=task.parent)
    assert 2 == done.returncode
    assert "has no evaluate.py" in done.stderr


def test_a_baseline_that_cannot_be_measured_ends_the_check(task: Path):
    (task / "baseline" / "program.py").write_text("def place(n):\n    return [[2.0, 2.0]] * n\n")
    code, found = check(task)
    assert 1 == code
    assert {"baseline"} == set(found) == failed(found)
    assert "a point lies outside the square by 1" in found["baseline"]["seen"]


def test_each_check_is_a_line_for_people_with_what_to_do_below_it(task: Path):
    (task / "baseline" / "program.py").write_text("place = None\n")
    done = evolvent("task", "check", task, UNSAFE, cwd=task.parent)
    first, below, end = done.stdout.splitlines()
    assert "✗ baseline" in first
    assert "→ a task starts from a program" in below
    assert "points is not ready: baseline" == end


def test_an_evaluator_that_takes_garbage_or_crashes_on_it_does_not_pass(task: Path):
    evaluator(
        task,
        "    points = np.asarray(candidate.call('place', POINTS))\n"
        "    return {'distance': int(points.max() / 2 + 1) / 11}\n",
    )
    code, found = check(task)
    assert 1 == code
    assert {"nan", "infinity", "huge"} <= failed(found)
    assert "evaluator_crashed" in found["nan"]["seen"]
    assert "scored" in found["huge"]["seen"]
    assert "shape=" in found["nan"]["mend"]


def test_an_evaluator_that_lets_the_candidate_compute_the_score_does_not_pass(task: Path):
    text = (task / "task.toml").read_text()
    (task / "task.toml").write_text(text.replace('["place"]', '["place", "score"]'))
    (task / "baseline" / "program.py").write_text(
        "import math\n\n\ndef place(n):\n    return [[0.5, 0.5]] * n\n\n\n"
        "def score(points):\n    return math.fsum(x for x, _ in points)\n"
    )
    evaluator(task, "    return {'distance': float(candidate.call('score', candidate.call('place', POINTS)))}\n")
    code, found = check(task)
    assert 1 == code
    assert "tamper" in failed(found)
    assert "scored 1e+308" in found["tamper"]["seen"]


def test_an_evaluator_that_never_asks_the_candidate_does_not_pass(task: Path):
    evaluator(task, "    return {'distance': 0.5}\n")
    code, found = check(task)
    assert 1 == code
    assert {"peek", "crash", "hang", "nan", "lie"} <= failed(found)


def test_a_task_where_candidates_can_read_does_not_pass(task: Path):
    with tempfile.TemporaryDirectory(dir=sys.prefix, prefix="test-task-") as folder:
        Path(folder).chmod(0o755)
        inside = Path(shutil.copytree(task, Path(folder) / "points"))
        done = evolvent("task", "check", inside, "--json", cwd=task.parent)
    found = checks(done)
    assert 1 == done.returncode
    assert {"peek"} == failed(found)
    assert str(inside) in found["peek"]["seen"]


def test_a_baseline_whose_score_is_chance_is_told(task: Path):
    (task / "baseline" / "program.py").write_text(
        "import os\n\n\ndef place(n):\n"
        "    width = 0.5 + int.from_bytes(os.urandom(4)) / 2**33\n"
        "    return [[width * i / n, 0.5] for i in range(n)]\n"
    )
    _, found = check(task)
    assert "warn" == found["repeats"]["verdict"]
    assert "seeds" in found["repeats"]["mend"]
