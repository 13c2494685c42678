"""The analyzer's questions to a model, and the shape of the answers."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import Field, model_validator

from evolvent.models import (
    Message,
    ModelAnswer,
    ModelRequest,
    Quotes,
    Template,
    UnusableAnswer,
    repaired,
    template,
    wanted,
)
from evolvent_schemas.values import CandidateId, Files, Finite, Lesson, Objective, Prediction, Value

PACKAGE = "evolvent_analyzer.prompts"
TEMPLATES = {"lesson": 1, "form_lesson": 1, "judge": 1, "form_judge": 1, "repair": 1}
"""The templates that a task folder may override, each with the version that is shipped."""


MOST_WORDS = 2000
"""Characters of one text of an answer; it travels inside its fact, with up to twenty others."""


class LessonReport(Value):
    """What one experiment taught."""

    lessons: tuple[Lesson, ...] = Field(min_length=1, max_length=4)

    @model_validator(mode="after")
    def _short(self) -> Self:
        if any(len(text) > MOST_WORDS for lesson in self.lessons for _, text in lesson):
            raise ValueError(f"each text of a lesson must have at most {MOST_WORDS} characters")
        return self


class Judgement(Value):
    """A program against the baseline, which is 5 by definition."""

    reasons: str = Field(min_length=1, max_length=MOST_WORDS)
    """Before the score, so that a model gives its reasons first."""
    score: int = Field(ge=1, le=10)


class Relative(Value):
    """A program that the measured one came from."""

    candidate: CandidateId
    score: Finite | None
    files: Files


class Measured(Value):
    """One experiment, as the analyst sees it."""

    brief: str
    """The task's own words: trusted, unlike all that follows."""
    objective: Objective
    candidate: CandidateId
    files: Files
    motivation: str = ""
    prediction: Prediction | None = None
    score: Finite | None = None
    """None when it failed."""
    spread: Finite | None = None
    """Standard deviation over the seeds."""
    seeds: int = 0
    metrics: dict[str, Finite] = Field(default_factory=dict)
    failure: str = ""
    """The failure's reason and message."""
    relatives: tuple[Relative, ...] = ()


def lesson_request(
    measured: Measured, *, model: str, max_tokens: int, overrides: Mapping[str, str] | None = None
) -> ModelRequest:
    """Ask what an experiment taught.

    Raises:
        Refused: a template of the task folder is unusable.
    """
    lesson = template(PACKAGE, "lesson", TEMPLATES["lesson"], overrides)
    changes = list(_changes(measured))
    outcome = _outcome(measured)
    quotes = Quotes.around((measured.motivation, outcome, *(text for pair in changes for text in pair)))
    messages = lesson.fill(
        boundary=quotes.boundary,
        brief=measured.brief.strip(),
        objective=f"The score is {measured.objective.metric}; {measured.objective.direction} it.",
        experiment=quotes.quote(f"experiment {measured.candidate}", outcome),
        motivation=quotes.quote("motivation", measured.motivation or "none was given"),
        changes="\n\n".join(quotes.quote(label, text) for label, text in changes),
        form=_text(template(PACKAGE, "form_lesson", TEMPLATES["form_lesson"], overrides)),
    )
    return _request(model, max_tokens, messages=messages, used=lesson, shape=LessonReport)


def judge_request(
    brief: str,
    baseline: Files,
    candidate: Files,
    *,
    model: str,
    max_tokens: int,
    overrides: Mapping[str, str] | None = None,
) -> ModelRequest:
    """Ask for a judgement of a program against the baseline.

    Raises:
        Refused: a template of the task folder is unusable.
    """
    judge = template(PACKAGE, "judge", TEMPLATES["judge"], overrides)
    quotes = Quotes.around((*baseline, *baseline.values(), *candidate, *candidate.values()))
    messages = judge.fill(
        boundary=quotes.boundary,
        brief=brief.strip(),
        baseline="\n\n".join(quotes.quote(f"baseline {path}", text) for path, text in baseline.items()),
        candidate="\n\n".join(quotes.quote(f"candidate {path}", text) for path, text in candidate.items()),
        form=_text(template(PACKAGE, "form_judge", TEMPLATES["form_judge"], overrides)),
    )
    return _request(model, max_tokens, messages=messages, used=judge, shape=Judgement)


def repair_request(
    asked: ModelRequest, answer: ModelAnswer, fault: UnusableAnswer, overrides: Mapping[str, str] | None = None
) -> ModelRequest:
    """Write the one repair turn after an answer that could not be used."""
    return repaired(asked, answer, template(PACKAGE, "repair", TEMPLATES["repair"], overrides), fault=str(fault))


def _request(
    model: str, max_tokens: int, *, messages: tuple[Message, ...], used: Template, shape: type[Value]
) -> ModelRequest:
    return ModelRequest(
        model=model, messages=messages, max_tokens=max_tokens, answer_schema=wanted(shape), prompt=used.ref
    )


def _text(form: Template) -> str:
    (message,) = form.fill()
    return message.text


def _outcome(measured: Measured) -> str:
    lines = [f"candidate: {measured.candidate}"]
    if measured.failure:
        lines.append(f"it failed: {measured.failure}")
    if measured.score is not None:
        lines.append(f"score: {measured.score:.10g} (mean of {measured.seeds} seeds{_noise(measured)})")
    lines += [f"{name}: {value:.10g}" for name, value in sorted(measured.metrics.items())]
    if (predicted := measured.prediction) is not None:
        lines.append(f"predicted: {predicted.expected:.10g}, between {predicted.low:.10g} and {predicted.high:.10g}")
    lines += [f"score of {relative.candidate}, a relative: {_known(relative.score)}" for relative in measured.relatives]
    return "\n".join(lines)


def _noise(measured: Measured) -> str:
    return "" if measured.spread is None else f", standard deviation {measured.spread:.4g}"


def _known(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.10g}"


def _changes(measured: Measured) -> Iterator[tuple[str, str]]:
    """List the differences to each relative, file by file; without relatives, the whole program."""
    for relative in measured.relatives:
        for path in sorted(relative.files.keys() | measured.files.keys()):
            if difference := _difference(relative.files.get(path, ""), measured.files.get(path, "")):
                yield f"{path}, from {relative.candidate} to {measured.candidate}", difference
    if not measured.relatives:
        yield from ((f"{measured.candidate} {path}", text) for path, text in measured.files.items())


def _difference(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="")
    return "\n".join(list(lines)[2:])
