"""The trial itself can be trusted: where nothing contains a program, it sees what the program can read."""

from pathlib import Path

from evolvent import task
from evolvent.checks import Check
from evolvent.cli.tasks import scaffold
from evolvent_engineer.backend import Completed, Failed
from evolvent_engineer.local import LocalBackend
from evolvent_engineer.trial import CASES, _Trial


async def test_without_a_boundary_the_files_within_reach_are_named(tmp_path: Path):
    scaffold(tmp_path / "points")
    backend = LocalBackend(tmp_path / "work" / "cells", allow_unsafe=True, tier="T3")
    await backend.start()
    try:
        trial = _Trial(task.load(tmp_path / "points"), backend, tmp_path / "work")
        found = trial._peek(await trial._evaluate("peek", trial._program("peek")))
    finally:
        await backend.close()
    assert "warn" == found.verdict
    assert str(tmp_path / "points") in found.seen


def _judged(name: str, outcome: Completed | Failed, tmp_path: Path, honest: tuple[float, ...] = (1.0, 1.0)) -> Check:
    scaffold(tmp_path / "points")
    backend = LocalBackend(tmp_path / "work" / "cells", allow_unsafe=True)
    trial = _Trial(task.load(tmp_path / "points"), backend, tmp_path / "work")
    trial.fitness.extend(honest)
    return trial._judge(next(case for case in CASES if case.name == name), outcome)


def _scored(score: float) -> Completed:
    return Completed(score, {"distance": score}, 0.1, 0.1, 1.0, "")


def test_a_cheat_may_score_what_the_baseline_scores_and_no_more(tmp_path: Path):
    assert "ok" == _judged("tamper", _scored(1.0), tmp_path / "equal").verdict
    assert "fail" == _judged("tamper", _scored(1.001), tmp_path / "better").verdict
    assert "ok" == _judged("tamper", _scored(1.001), tmp_path / "noise", honest=(1.0, 0.999)).verdict


def test_a_program_that_answers_nan_may_not_score_at_all(tmp_path: Path):
    assert "fail" == _judged("nan", _scored(0.5), tmp_path / "a").verdict
    assert "ok" == _judged("nan", Failed("invalid", "NaN"), tmp_path / "b").verdict
    assert "fail" == _judged("nan", Failed("evaluator_crashed", "ValueError"), tmp_path / "c").verdict


def test_a_failing_machine_passes_no_trial(tmp_path: Path):
    for case in CASES:
        failed = _judged(case.name, Failed("infrastructure", "no memory"), tmp_path / case.name)
        assert "fail" == failed.verdict
