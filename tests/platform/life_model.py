"""A log that only holds what the conductor folds, and everything that can happen to a run, in any order."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from evolvent.log import Record
from evolvent_conductor.life import Life, step
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    DirectiveIssued,
    Fact,
    HandlingFailed,
    Kind,
    KnowledgeIngested,
    RoundClosed,
    RoundExhausted,
    RoundExpired,
    RoundOpened,
    RunFinished,
    RunStarted,
    Start,
)
from evolvent_schemas.values import Budget, Cost, Objective, Program, ProgramSpec, RunSettings, TaskSpec

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
PROGRAM = Program.of({"program.py": "def point():\n    return 0\n"})
ENDS = ("measured", "failed", "exhausted", "expired", "role_failed", "code_changed")
"""Everything that can settle a round."""


def settings(rounds: int, width: int, *, pause_after: int = 3, tokens: int | None = None) -> RunSettings:
    task = TaskSpec(
        name="model", title="Model", objective=Objective(metric="score"), program=ProgramSpec(functions=("point",))
    )
    budget = Budget(rounds=rounds, tokens=tokens)
    return RunSettings(task=task, bundle="0" * 64, seed=1, width=width, budget=budget, pause_after=pause_after)


@dataclass
class Model:
    """One run: the conductor's state, and the log that its decisions end up on."""

    rules: RunSettings
    life: Life = field(default_factory=Life)
    log: dict[str, Fact] = field(default_factory=dict)
    order: list[Fact] = field(default_factory=list)
    """What was due, in order; a claim that was already on the log is not in it twice."""
    lost: list[tuple[Fact, tuple[Any, ...]]] = field(default_factory=list)
    """Inputs that a conductor gave up before it stored all that was due."""
    count: int = 0

    def start(self) -> None:
        self.tell(self.directive(Start(settings=self.rules, baseline=PROGRAM)))

    def directive(self, request: Any) -> DirectiveIssued:
        self.count += 1
        return DirectiveIssued(run="r1", user="local", directive=f"d{self.count}", request=request)

    def tell(self, fact: Fact, *, stored: int | None = None) -> None:
        """Let an input onto the log, once; of what it makes due only the first so many may be stored."""
        if fact.subject in self.log:
            return
        self.log[fact.subject] = fact
        sequence = len(self.log)
        time = BEGAN + timedelta(seconds=sequence)
        cause = uuid5(NAMESPACE_URL, fact.subject)
        self.life = step(self.life, Record(fact, cause, cause, time, "model", sequence))
        due = self.life.due if stored is None else self.life.due[:stored]
        if len(due) < len(self.life.due):
            self.lost.append((fact, self.life.due[len(due) :]))
        for decided in due:
            self._store(decided)

    def _store(self, fact: Fact) -> None:
        if fact.subject in self.log:
            assert fact.kind is not Kind.DECISION, f"{fact.subject} was decided twice"
            return
        self.log[fact.subject] = fact
        self.order.append(fact)

    def ingest(self) -> None:
        self.tell(KnowledgeIngested(run="r1", batch="task", items="0" * 64, count=0))

    def give_up(self, fact: Fact, role: str, reason: Any = "permanent", number: str | None = None) -> None:
        cause = uuid5(NAMESPACE_URL, fact.subject)
        self.tell(
            HandlingFailed(
                run="r1", role=role, cause=str(cause), handled=fact.subject, round=number, reason=reason, error="",
                deliveries=1,
            )
        )  # fmt: skip

    def spend(self, number: str, tokens: int, attempt: int = 0) -> None:
        self.tell(
            CandidateProposed(
                run="r1", candidate=f"{number}.{attempt}", program=PROGRAM, proposer="model", motivation="",
                cost=Cost(tokens=tokens),
            )
        )  # fmt: skip

    def settle(self, number: str, end: str, *, score: float = 0.0, stored: int | None = None) -> None:
        """Bring a round to one of its ends; another end may come later and must change nothing."""
        if end in {"role_failed", "code_changed"}:
            opened = self.log[f"evo.r1.round.opened.{number}"]
            self.give_up(opened, "researcher", "permanent" if end == "role_failed" else end, number)
            return
        self.tell(self._end(number, end, score), stored=stored)

    def _end(self, number: str, end: str, score: float) -> Fact:
        match end:
            case "exhausted":
                return RoundExhausted(run="r1", round=number, attempts=1, reason="")
            case "expired":
                return RoundExpired(run="r1", round=number, open_seconds=1.0)
            case "failed":
                return _analyzed(number, outcome="failed", failure="crashed")
            case _:
                return _analyzed(number, outcome="measured", score=score, fitness=score)

    def recover(self) -> None:
        """Put the failures of conductors on the log, so that what they did not store becomes due again."""
        while self.lost:
            fact, _ = self.lost.pop(0)
            number = getattr(fact, "round", None) or getattr(fact, "candidate", "").partition(".")[0] or None
            self.give_up(fact, "conductor", "deliveries", number)

    def facts(self, cls: type[Any]) -> list[Any]:
        return [fact for fact in self.order if isinstance(fact, cls)]

    @property
    def opened(self) -> list[str]:
        return [fact.round for fact in self.facts(RoundOpened)]

    @property
    def closed(self) -> list[str]:
        return [fact.round for fact in self.facts(RoundClosed)]

    @property
    def running(self) -> list[str]:
        """Rounds that are open on the log."""
        return [number for number in self.opened if number not in self.closed]

    @property
    def finished(self) -> RunFinished | None:
        found: list[RunFinished] = self.facts(RunFinished)
        return found[0] if found else None

    @property
    def started(self) -> bool:
        return bool(self.facts(RunStarted))


def _analyzed(number: str, **fields: Any) -> CandidateAnalyzed:
    return CandidateAnalyzed.model_validate({"run": "r1", "candidate": f"{number}.0", "stage": "explore", **fields})


def ring(numbers: list[str]) -> list[str]:
    return [number for number in numbers if not number.startswith("h")]
