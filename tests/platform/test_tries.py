"""Two tries of one experiment may both end; the stage is analyzed once."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from evolvent.log import Record
from evolvent_analyzer.handlers import _settles
from evolvent_analyzer.ledger import FOLD, Ledger
from evolvent_schemas import ExperimentCompleted, ExperimentFailed, Fact


def _completed(attempt: int, seed: int = 0) -> ExperimentCompleted:
    return ExperimentCompleted(
        run="r1", candidate="0.0", stage="explore", seed=seed, attempt=attempt, score=1.0, tier="T1",
        wall_seconds=1, cpu_seconds=1, memory_mb=1,
    )  # fmt: skip


def _failed(attempt: int, seed: int = 0, blame: str = "candidate") -> ExperimentFailed:
    reason = "infrastructure" if blame == "infrastructure" else "crashed"
    return ExperimentFailed.model_validate(
        {"run": "r1", "candidate": "0.0", "stage": "explore", "seed": seed, "attempt": attempt, "reason": reason,
         "blame": blame, "message": "", "wall_seconds": 1, "tier": "T1"}
    )  # fmt: skip


def _deciding(facts: list[ExperimentCompleted | ExperimentFailed], seeds: int) -> list[int]:
    """Say which of the facts, in log order, decide the stage."""
    ledger, deciding = Ledger(), []
    for number, fact in enumerate(facts):
        ledger = FOLD.advance(ledger, _record(fact, number))
        if _settles(fact, ledger.outcomes.get("0.0.explore", {}), seeds):
            deciding.append(number)
    return deciding


def _record(fact: Fact, sequence: int) -> Record[Fact]:
    return Record(fact, uuid4(), UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), "evolvent/engineer", sequence)


def test_the_first_try_that_ends_decides_and_a_later_one_does_not() -> None:
    assert [0] == _deciding([_completed(0), _completed(1)], seeds=1)
    assert [1] == _deciding([_failed(0, blame="infrastructure"), _completed(1), _completed(0)], seeds=1)


def test_a_failure_decides_once_whatever_else_ends() -> None:
    assert [0] == _deciding([_failed(0), _failed(1), _completed(0, seed=1), _failed(0, seed=1)], seeds=2)


def test_a_try_that_completed_twice_does_not_stand_for_a_missing_seed() -> None:
    assert [2] == _deciding([_completed(0), _completed(1), _completed(0, seed=1)], seeds=2)
