"""The checks of `evolvent task check` and `evolvent doctor` that only an engineer can make.

A task is tried for real, through the backend that its candidates will meet: its baseline, and programs that crash,
hang, answer garbage or cheat. Each of those has one right outcome.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from evolvent import task
from evolvent.checks import Check, Verdict
from evolvent.task import Task
from evolvent_engineer import tiers
from evolvent_engineer.backend import Backend, Completed, Experiment, Failed, Outcome, pods_of
from evolvent_engineer.local import LocalBackend
from evolvent_engineer.misbehaviour import MARK, ORIGINAL
from evolvent_schemas.values import FailureReason, Limits

HANG_SECONDS = 1.0
"""Wall limit of the program that hangs: it would not end in a longer one either."""
_ROOM = 8
"""Files and MiB that a trial may use beyond the task's limits: it is a program beside the baseline."""
_REJECTED: frozenset[FailureReason] = frozenset({"invalid", "non_finite"})
_ROUNDING = 1e-9
"""Relative; a score this much above the baseline's is the baseline's."""
_NOISE = 10.0
"""How many times the difference of two runs of the baseline a third one may differ by chance."""


@dataclass(frozen=True, slots=True)
class Case:
    """One program that misbehaves, and what must become of it."""

    name: str
    outcomes: frozenset[FailureReason] = frozenset()
    """Reasons by which it may fail; none for any that is the candidate's own fault."""
    scores: bool = False
    """Whether it may as well be measured, as long as it is no better than the baseline."""
    mend: str = ""


_SANDBOX = "the sandbox is at fault, not the task; `evolvent doctor` says what it is made of"
_GARBAGE = (
    "let evaluate.py refuse such answers: `evolvent.evaluation.array(answer, shape=…)` raises Invalid for whatever "
    "is no finite array; bound what is computed with"
)
CASES = (
    Case("crash", frozenset({"crashed"}), mend="evaluate.py must call the candidate and let CandidateFailed pass"),
    Case("hang", frozenset({"wall_limit"}), mend="evaluate.py must call the candidate and let CandidateFailed pass"),
    Case("nan", _REJECTED, mend=_GARBAGE),
    Case("infinity", _REJECTED, mend=_GARBAGE),
    Case("huge", scores=True, mend=_GARBAGE),
    Case("negative", scores=True, mend=_GARBAGE),
    Case("tamper", scores=True, mend="evaluate.py must compute the score itself, from plain data that it checked"),
    Case("forge", scores=True, mend="evaluate.py must take nothing but what `candidate.call` returns, and check it"),
    Case("lie", frozenset({"protocol"}), mend=_SANDBOX),
)


def sandbox(*, allow_unsafe: bool) -> Check:
    """Say which sandbox tier is to be had on this machine, and what keeps a better one away."""
    found = tiers.probe()
    why = "; ".join(f"no {tier}: {obstacle}" for tier, obstacle in found.obstacles.items())
    seen = f"tier {found.tier}" + (f" ({why})" if why else "")
    if found.tier != "T3":
        return Check("sandbox", "ok", seen)
    mend = "Linux 6.2 or later contains candidates; --allow-unsafe-sandbox goes on without, for programs you trust"
    return Check("sandbox", "warn" if allow_unsafe else "fail", seen, mend)


async def trials(task: Task, work: Path, *, allow_unsafe: bool) -> AsyncIterator[Check]:
    """Try a task; without a baseline that can be measured nothing else is tried.

    Raises:
        Refused: nothing contains a program here, and that was not allowed.
    """
    backend = LocalBackend(work / "cells", allow_unsafe=allow_unsafe)
    try:
        await backend.start()
        async for check in _Trial(task, backend, work).run():
            yield check
    finally:
        await backend.close()
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


@dataclass
class _Trial:
    """One task on one backend."""

    task: Task
    backend: Backend
    work: Path
    bundle: Path = field(init=False)
    fitness: list[float] = field(default_factory=list)
    """Of the honest runs."""

    def __post_init__(self) -> None:
        self.bundle = task.unpack(task.pack(self.task.folder), self.work / "bundle")

    async def run(self) -> AsyncIterator[Check]:
        stage = self.task.spec.stages[0]
        if pods_of(stage) > 1:
            seen = f"stage {stage.name} trains on {pods_of(stage)} pods, which only a cluster has; nothing was tried"
            yield Check("baseline", "warn", seen, "try it with pods = 1 in the stage's settings")
            return
        baseline = self._baseline(await self._evaluate("baseline", dict(self.task.baseline)))
        yield baseline
        if baseline.verdict == "fail":
            return
        peek = await self._evaluate("peek", self._program("peek"))
        yield self._peek(peek)
        yield self._repeats(peek)
        for case in CASES:
            yield self._judge(case, await self._evaluate(case.name, self._program(case.name)))

    async def _evaluate(self, name: str, program: dict[str, str]) -> Outcome:
        stage = self.task.spec.stages[0]
        limits = stage.limits if name == "baseline" else _limits(stage.limits, hang=name == "hang")
        return await self.backend.evaluate(
            Experiment(
                id=f"check-{os.getpid()}-{name}",
                bundle=self.bundle,
                files=program,
                program=self.task.spec.program,
                stage=stage.model_copy(update={"limits": limits}),
                metric=self.task.spec.objective.metric,
                seed=0,
            )
        )

    def _program(self, case: str) -> dict[str, str]:
        """Build a program that has the baseline beside it and answers every function as the case does."""
        spec = self.task.spec.program
        facts = {"name": case, "metric": self.task.spec.objective.metric, "paths": list(self._secrets())}
        bound = "".join(
            f"{name} = functools.partial(_misbehaviour.answer, CASE, {name!r})\n" for name in spec.functions
        )
        entry = f"import functools\n\nimport _misbehaviour\n\nCASE = {facts!r}\n{bound}"
        text = (files("evolvent_engineer") / "misbehaviour.py").read_text(encoding="utf-8")
        baseline = {name: text for name, text in self.task.baseline.items() if name != spec.entry}
        return {
            **baseline,
            f"{ORIGINAL}.py": self.task.baseline[spec.entry],
            "_misbehaviour.py": text,
            spec.entry: entry,
        }

    def _secrets(self) -> Iterator[str]:
        """Name what a candidate must not read: the task's folder as it lies here, and as the evaluator reads it."""
        for folder in (self.task.folder.resolve(), self.bundle.resolve()):
            yield from (str(path) for path in (folder, *sorted(folder.rglob("*"))[:50]))
        yield str(self.work.resolve().parent)

    def _baseline(self, outcome: Outcome) -> Check:
        match outcome:
            case Completed(score=score):
                self.fitness.append(self.task.spec.objective.fitness(score))
                return Check("baseline", "ok", f"score {score:.10g} in {_cost(outcome)}", measured=_measured(outcome))
            case Failed():
                fault = f"{outcome.reason}: {outcome.message.strip()}"
                mend = "a task starts from a program that can be measured; mend baseline/, evaluate.py or the limits"
                return Check("baseline", "fail", fault, mend, _measured(outcome))

    def _peek(self, outcome: Outcome) -> Check:
        """Say what a candidate could read of the task. Where nothing contains it, it reads everything."""
        lines = [line.removeprefix(MARK) for line in outcome.output.splitlines() if line.startswith(MARK)]
        reports = [json.loads(line) for line in lines]
        if not reports:
            seen = f"the program that looks for the task's files did not report: {_ended(outcome)}"
            return Check("peek", "fail", seen, "evaluate.py must call the candidate", _measured(outcome))
        reached = [path for report in reports for path in report["reached"]]
        tried = f"{reports[0]['tried']} ways to the task's files tried from inside"
        if not reached:
            return Check("peek", "ok", f"{tried}, none led there", measured=_measured(outcome))
        verdict: Verdict = "warn" if self.backend.tier == "T3" else "fail"
        mend = "keep the task folder out of the Python installation and the system folders; " + _SANDBOX
        return Check("peek", verdict, f"{tried}; a candidate can read {', '.join(reached)}", mend, _measured(outcome))

    def _repeats(self, outcome: Outcome) -> Check:
        """Compare two honest runs."""
        if isinstance(outcome, Failed):
            mend = "a program that is measured once and fails once cannot be told from a better one; mend the limits"
            return Check("repeats", "fail", f"the baseline, measured again, {_ended(outcome)}", mend)
        self.fitness.append(self.task.spec.objective.fitness(outcome.score))
        difference = abs(self.fitness[0] - self.fitness[1])
        if difference == 0:
            return Check("repeats", "ok", "two runs of the baseline have the same score")
        mend = "seed what is random, or measure more seeds per candidate ([[stages]] seeds = …)"
        return Check("repeats", "warn", f"two runs of the baseline differ by {difference:.3g}", mend)

    def _judge(self, case: Case, outcome: Outcome) -> Check:
        good = self._measured_well(outcome) if isinstance(outcome, Completed) else _failed_well(case, outcome)
        allowed = case.scores or isinstance(outcome, Failed)
        seen, measured = _ended(outcome), _measured(outcome)
        if good and allowed:
            return Check(case.name, "ok", seen, measured=measured)
        wanted = " or ".join(sorted(case.outcomes)) or "a failure of the candidate"
        wanted += ", or a score no better than the baseline's" if case.scores else ""
        return Check(case.name, "fail", f"{seen}; expected: {wanted}", case.mend, measured)

    def _measured_well(self, outcome: Completed) -> bool:
        """Tell whether a score is no better than the baseline's, by more than chance and rounding explain."""
        best = max(self.fitness)
        slack = _NOISE * (best - min(self.fitness)) + _ROUNDING * max(1.0, abs(best))
        return self.task.spec.objective.fitness(outcome.score) <= best + slack


def _limits(limits: Limits, *, hang: bool) -> Limits:
    wall = min(HANG_SECONDS, limits.wall_seconds) if hang else limits.wall_seconds
    room = {"files": limits.files + _ROOM, "disk_mb": limits.disk_mb + _ROOM}
    return limits.model_copy(update={**room, "wall_seconds": wall})


def _failed_well(case: Case, outcome: Failed) -> bool:
    return outcome.reason in case.outcomes if case.outcomes else outcome.blame == "candidate"


def _ended(outcome: Outcome) -> str:
    match outcome:
        case Completed(score=score):
            return f"scored {score:.10g}"
        case Failed(reason=reason, message=message):
            return f"ended as {reason}: {message.strip().rpartition(chr(10))[2][:300]}"


def _cost(outcome: Outcome) -> str:
    return f"{outcome.wall_seconds:.2f} s ({outcome.cpu_seconds:.2f} s CPU), {outcome.memory_mb:.0f} MiB"


def _measured(outcome: Outcome) -> dict[str, float]:
    used = {name: getattr(outcome, name) for name in ("wall_seconds", "cpu_seconds", "memory_mb")}
    return used | ({"score": outcome.score} if isinstance(outcome, Completed) else {})
