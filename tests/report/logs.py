"""Logs of runs that never were: every outcome a round can have, in any order, with hostile text where text goes."""

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from evolvent.log import Record
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    CandidateScreened,
    DiscoveryClaimed,
    EffectRecorded,
    ExperimentCompleted,
    ExperimentFailed,
    Fact,
    KnowledgeIngested,
    KnowledgeRetrieved,
    RoundClosed,
    RoundOpened,
    RunFinished,
    RunHalted,
    RunStarted,
)
from evolvent_schemas.values import (
    Best,
    Comparison,
    Cost,
    Grant,
    Lesson,
    Objective,
    Program,
    ProgramSpec,
    Retrieved,
    RunSettings,
    Stage,
    TaskSpec,
)

RUN = "r1"
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\u2028\u2029 line\u202egnol",
    "\"><img src='http://evil.example/x' onerror=alert(2)>",
    "<!-- --> ]]> &lt; &amp;#60; {{x}}",
    '<svg onload=alert(3)><a href="javascript:alert(4)">',
    "</style><link rel=stylesheet href=//evil.example/y>",
    "\x00\x1b[31m\x7f",
    "'; DROP TABLE facts; --",
    "x" * 3000,
)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Writer:
    """Writes facts as a log would hold them."""

    direction: Any = "maximise"
    seeds: int = 1
    words: str = ""
    records: list[Record[Fact]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    _count: Any = field(default_factory=lambda: itertools.count(1))

    def add(self, fact: Fact) -> None:
        number = next(self._count)
        time = BEGAN + timedelta(seconds=number)
        source = "evolvent/" + (fact.publisher if fact.publisher != "*" else getattr(fact, "role", "engineer"))
        self.records.append(Record(fact, uuid.UUID(int=number), uuid.UUID(int=0), time, source, number))

    @property
    def settings(self) -> RunSettings:
        task = TaskSpec(
            name="point",
            title="A point " + self.words,
            objective=Objective(metric="closeness", direction=self.direction, best_known=1.0, source=self.words),
            program=ProgramSpec(functions=("point",)),
            stages=(Stage(seeds=self.seeds),),
        )
        return RunSettings(task=task, bundle="0" * 64, seed=7)

    def begin(self) -> "Writer":
        self.add(RunStarted(run=RUN, settings=self.settings, user="local"))
        self.add(KnowledgeIngested(run=RUN, batch="task", items="0" * 64, count=3))
        return self

    def open(self, number: str) -> None:
        self.add(RoundOpened(run=RUN, round=number, grant=Grant(attempts=3, compute_seconds=1)))

    def propose(self, candidate: str, parents: Sequence[str] = (), cited: Sequence[str] = ()) -> None:
        self.add(
            CandidateProposed(
                run=RUN,
                candidate=candidate,
                program=Program.of({"program.py": f"# {candidate} {self.words}"}),
                parents=tuple(parents),
                proposer="operators/" + self.words[:40],
                motivation=self.words or "because",
                cited=tuple(cited),
            )
        )

    def repeat(self, candidate: str, of: str) -> None:
        self.add(CandidateScreened(run=RUN, candidate=candidate, verdict="duplicate", of=of, fingerprint="f"))

    def retrieve(self, number: str, ids: Sequence[str]) -> None:
        found = tuple(Retrieved(id=i, kind="item", title=self.words or i, text="", score=1.0, query=0) for i in ids)
        self.add(KnowledgeRetrieved(run=RUN, round=number, queries=("q",), found=found, documents=3))

    def measure(self, candidate: str, score: float, against: str | None = None) -> None:
        self._experiments(candidate, score)
        spread = 0.5 if self.seeds > 1 else None
        self.scores[candidate] = score
        comparison = (
            (Comparison(candidate=against, difference=score - self.scores[against], lines_added=1, lines_removed=0),)
            if against
            else ()
        )
        self.add(
            CandidateAnalyzed(
                run=RUN,
                candidate=candidate,
                stage="explore",
                outcome="measured",
                score=score,
                fitness=self.settings.task.objective.fitness(score),
                seeds=self.seeds,
                spread=spread,
                comparisons=comparison,
                lessons=(Lesson(change=self.words or "a", effect=self.words or "b", avoid=self.words),),
                wall_seconds=1.5,
            )
        )

    def _experiments(self, candidate: str, score: float) -> None:
        for seed in range(self.seeds):
            self.add(
                ExperimentCompleted(
                    run=RUN, candidate=candidate, stage="explore", seed=seed, attempt=0, score=score,
                    wall_seconds=1.5, cpu_seconds=1, memory_mb=1, tier="T1", output=self.words,
                )
            )  # fmt: skip

    def fail(self, candidate: str) -> None:
        message = self.words or "boom"
        self.add(
            ExperimentFailed(
                run=RUN, candidate=candidate, stage="explore", seed=0, attempt=0, reason="crashed", blame="candidate",
                message=message, wall_seconds=0.5, tier="T1",
            )
        )  # fmt: skip
        self.add(
            CandidateAnalyzed(
                run=RUN, candidate=candidate, stage="explore", outcome="failed", failure="crashed", message=message
            )
        )

    def claim(self, candidate: str, previous: float) -> None:
        score = self.scores[candidate]
        self.add(DiscoveryClaimed(run=RUN, candidate=candidate, stage="explore", score=score, previous=previous))

    def close(self, number: str, outcome: Any, candidate: str | None = None, score: float | None = None) -> None:
        cost = Cost(wall_seconds=1.0)
        self.add(
            RoundClosed(
                run=RUN, round=number, outcome=outcome, candidate=candidate, score=score, message=self.words, cost=cost
            )
        )

    def ask(self, cause: int, answer: Any, *, delivery: int = 1, role: str = "researcher") -> None:
        self.add(
            EffectRecorded(
                run=RUN, role=role, cause=uuid.UUID(int=cause), name="design", request="0" * 64, outcome="answered",
                answer=answer, cost=Cost(usd=0.25, tokens=30), delivery=delivery, wall_seconds=2.0,
            )
        )  # fmt: skip

    def finish(self, state: Any = "completed") -> "Writer":
        worth = self.settings.task.objective.fitness
        name = max(self.scores, key=lambda each: worth(self.scores[each]), default=None)
        best = Best(candidate=name, score=self.scores[name]) if name else None
        if state == "halted":
            self.add(RunHalted(run=RUN, reason=self.words or "enough"))
        self.add(RunFinished(run=RUN, state=state, message=self.words, rounds_closed=1, rounds_failed=0, best=best))
        return self


OUTCOMES = ("measured", "measured", "failed", "duplicate", "exhausted", "expired", "late", "open")


@st.composite
def written(draw: Any) -> Writer:
    """Draw a run of up to a dozen rounds."""
    writer = Writer(
        direction=draw(st.sampled_from(["maximise", "minimise"])),
        seeds=draw(st.integers(1, 3)),
        words=draw(st.sampled_from(["", *HOSTILE]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)),
    ).begin()
    for number, outcome in enumerate(draw(st.lists(st.sampled_from(OUTCOMES), max_size=12))):
        score = draw(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]))
        parents = (
            draw(st.lists(st.sampled_from(sorted(writer.scores)), max_size=2, unique=True)) if writer.scores else []
        )
        cited = draw(st.lists(st.sampled_from(["item-a", "item-b", "<b>"]), max_size=2, unique=True))
        _round(writer, str(number), outcome, score, parents, cited)
    if draw(st.booleans()):
        writer.finish(draw(st.sampled_from(["completed", "budget", "halted", "failed"])))
    return writer


def _round(
    writer: Writer, number: str, outcome: str, score: float, parents: Sequence[str], cited: Sequence[str]
) -> None:
    candidate = f"{number}.0"
    writer.open(number)
    writer.retrieve(number, ["item-a"])
    if outcome in {"exhausted", "expired", "open"}:
        if outcome != "open":
            writer.close(number, outcome)
        return
    writer.propose(candidate, parents, cited)
    against = parents[0] if parents else None
    match outcome:
        case "measured":
            writer.measure(candidate, score, against)
            writer.close(number, "completed", candidate, score)
        case "failed":
            writer.fail(candidate)
            writer.close(number, "candidate_failed", candidate)
        case "duplicate":
            writer.repeat(candidate, next(iter(writer.scores), candidate))
            writer.close(number, "exhausted")
        case _:
            writer.close(number, "expired")
            writer.measure(candidate, score, against)
