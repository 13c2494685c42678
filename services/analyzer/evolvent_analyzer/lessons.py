"""Lessons and judgements by a model; whatever goes wrong with them, the measurement stands and its lesson with it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from evolvent.errors import Permanent, Refused
from evolvent.journal import EffectFailed, Effects
from evolvent.models.access import Access
from evolvent.models.answers import ModelAnswer, ModelRequest, UnusableAnswer, read
from evolvent.models.journaled import Asker, Form, converse
from evolvent.models.purse import Allowance
from evolvent_analyzer.ledger import Ledger, Outcome
from evolvent_analyzer.prompts import (
    Judgement,
    LessonReport,
    Measured,
    Relative,
    judge_request,
    lesson_request,
    repair_request,
)
from evolvent_schemas import values
from evolvent_schemas.values import Files, Lesson, ModelCall, RunSettings

TRIES = 4
"""From this delivery of a measurement on it is analyzed without the model: one below the usual limit."""


@dataclass(frozen=True)
class Teaching:
    """What was learnt from a stage, and what asking for it has cost."""

    lessons: tuple[Lesson, ...]
    judgement: values.Judgement | None = None
    calls: tuple[ModelCall, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A stage whose outcome is settled."""

    candidate: str
    outcomes: Mapping[int, Outcome]
    score: float | None = None
    spread: float | None = None
    failure: str = ""


async def teach(
    ended: Ended, computed: tuple[Lesson, ...], ledger: Ledger, effects: Effects, access: Access
) -> Teaching:
    """Have the run's first model word the lessons and judge the program, as far as the run wants either.

    An answer that cannot be used leaves the computed lessons, which then say so. The baseline teaches nothing.

    Raises:
        CodeChanged, Halted, Transient, Unrecorded: see `Effects.once`.
    """
    settings = ledger.settings
    assert settings is not None
    number = ended.candidate.partition(".")[0]
    account = ledger.accounts.get(number)
    wanted = settings.lessons == "llm" or settings.judge
    if not wanted or not settings.models or account is None or not computed:
        return Teaching(computed)
    allowance = Allowance(run=effects.cause.fact.run, round=number, grant=account.grant, spent=account.cost)
    asker = Asker(effects, access, allowance, TRIES)
    try:
        briefing = await access.briefing(effects.artifacts, settings.bundle)
        asking = _Asking(asker, settings, briefing.brief, briefing.prompts, ledger, ended)
        return await asking.judged(await asking.worded(Teaching(computed)))
    except Refused as error:
        raise Permanent(str(error)) from None


def without_model(lessons: tuple[Lesson, ...], why: str) -> tuple[Lesson, ...]:
    """Say in each computed lesson that it was to come from a model."""
    note = f" (computed from the numbers alone: {' '.join(why.split())[:300]})"
    return tuple(lesson.model_copy(update={"effect": lesson.effect + note}) for lesson in lessons)


@dataclass(frozen=True)
class _Asking:
    """The questions about one stage."""

    asker: Asker
    settings: RunSettings
    brief: str
    prompts: MappingProxyType[str, str]
    ledger: Ledger
    ended: Ended

    async def worded(self, teaching: Teaching) -> Teaching:
        if self.settings.lessons != "llm":
            return teaching
        request = lesson_request(
            await self._measured(),
            model=self.settings.models[0],
            max_tokens=self.settings.max_tokens,
            overrides=self.prompts,
        )
        form = Form("lesson", lambda answer: read(answer, LessonReport), self._repair)
        try:
            exchange = await converse(self.asker, "lesson", request, form)
        except EffectFailed as error:
            return replace(teaching, lessons=without_model(teaching.lessons, str(error)))
        teaching = replace(teaching, calls=exchange.calls)
        if exchange.value is None:
            return replace(teaching, lessons=without_model(teaching.lessons, exchange.fault))
        return replace(teaching, lessons=exchange.value.lessons)

    async def judged(self, teaching: Teaching) -> Teaching:
        """Judge what was measured; a judgement that cannot be had is left out."""
        baseline = self.ledger.baseline
        if not self.settings.judge or self.ended.score is None or baseline is None:
            return teaching
        model = self.settings.models[0]
        request = judge_request(
            self.brief,
            await self._files(baseline.candidate),
            await self._files(self.ended.candidate),
            model=model,
            max_tokens=self.settings.max_tokens,
            overrides=self.prompts,
        )
        form = Form("judge", lambda answer: read(answer, Judgement), self._repair)
        spent = sum((call.cost for call in teaching.calls), values.Cost())
        try:
            exchange = await converse(self.asker.after(spent), "judge", request, form)
        except EffectFailed:
            return teaching
        said = exchange.value
        judgement = values.Judgement(score=said.score, reasons=said.reasons, model=model) if said else None
        return replace(teaching, judgement=judgement, calls=(*teaching.calls, *exchange.calls))

    def _repair(self, asked: ModelRequest, answer: ModelAnswer, fault: UnusableAnswer) -> ModelRequest:
        return repair_request(asked, answer, fault, self.prompts)

    async def _files(self, candidate: str) -> Files:
        return await self.asker.effects.artifacts.files(self.ledger.members[candidate].program)

    async def _measured(self) -> Measured:
        ended, ledger = self.ended, self.ledger
        relatives = [
            Relative(candidate=each.candidate, score=each.score, files=await self._files(each.candidate))
            for each in ledger.relatives(ended.candidate)
        ]
        return Measured(
            brief=self.brief,
            objective=self.settings.task.objective,
            candidate=ended.candidate,
            files=await self._files(ended.candidate),
            motivation=ledger.members[ended.candidate].motivation,
            prediction=ledger.predictions.get(ended.candidate),
            score=ended.score,
            spread=ended.spread,
            seeds=len(ended.outcomes),
            metrics=means([outcome.metrics for outcome in ended.outcomes.values()]),
            failure=ended.failure,
            relatives=tuple(relatives),
        )


def means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the seeds that have it."""
    names = sorted({name for each in metrics for name in each})
    return {name: statistics.fmean(each[name] for each in metrics if name in each) for name in names}
