"""What a new run is asked to be."""

import json
from pathlib import Path

from evolvent import runs, task
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[2] / "tasks" / "circle_packing"


def test_a_round_has_an_hour_more_than_its_seeds_may_take() -> None:
    plan = runs.Plan(task.load(TASK))
    (stage, *_) = plan.task.spec.stages
    assert 3600 + stage.seeds * stage.limits.wall_seconds == plan.settings("0" * 64).round_seconds


def test_a_round_has_the_hours_that_are_asked_for(tmp_path: Path) -> None:
    assert 0 == evolvent("start", TASK, "--round-hours", "48", "--run", "slow", cwd=tmp_path).returncode
    told = [json.loads(line) for line in evolvent("tail", "slow", "--json", cwd=tmp_path).stdout.splitlines()]
    assert [48 * 3600.0] == [each["data"]["request"]["settings"]["round_seconds"] for each in told]
