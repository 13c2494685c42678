"""`evolvent report` and the report that `evolvent run` ends with, on a real run."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from evolvent.report import Report

TASK = Path(__file__).parents[1] / "chaos" / "task"


def evolvent(*words: str, home: Path) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-c", "from evolvent.cli import main; main()", *words, "--home", str(home)]
    return subprocess.run(command, capture_output=True, check=False, timeout=80)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Carry a small run to its end and give its home and what it printed."""
    home = tmp_path_factory.mktemp("finished") / "home"
    done = evolvent("run", str(TASK), "--rounds", "3", "--seed", "1", "--json", home=home)
    assert done.returncode == 0, done.stderr
    return home, orjson.loads(done.stdout)


def test_a_run_ends_with_its_report_and_names_it(finished: tuple[Path, dict[str, object]]) -> None:
    home, outcome = finished
    page = Path(str(outcome["report"]))
    report = Report.model_validate_json(page.with_suffix(".json").read_bytes())

    assert page == home / "runs" / str(outcome["run"]) / "report.html"
    assert outcome["rounds"] == {"closed": report.rounds.closed, "failed": report.rounds.failed}
    assert report.standing.best is not None
    assert outcome["best"]["score"] == report.standing.best.score  # type: ignore[index]
    assert "def point" in report.program["program.py"]


def test_the_same_log_gives_the_same_report_wherever_it_is_written(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    home, outcome = finished
    done = evolvent("report", "--output", str(tmp_path), "--json", home=home)
    page = Path(str(outcome["report"]))

    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout) == orjson.loads(page.with_suffix(".json").read_bytes())
    assert page.read_bytes() == (tmp_path / "report.html").read_bytes()
    assert page.with_suffix(".json").read_bytes() == (tmp_path / "report.json").read_bytes()


def test_a_run_that_is_not_there_is_refused(finished: tuple[Path, dict[str, object]]) -> None:
    done = evolvent("report", "nobody", home=finished[0])

    assert done.returncode == 2
    assert b"there is no run 'nobody'" in done.stderr
