"""The researcher's question to a model, and how its answer is read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from evolvent.models import (
    ModelAnswer,
    ModelRequest,
    Quotes,
    Template,
    UnusableAnswer,
    fit,
    repaired,
    template,
    whole,
)
from evolvent.models.parsing import json_object
from evolvent_researcher.edits import EditError, Mode, apply, blocks
from evolvent_schemas.values import CandidateId, Files, Finite, Objective, Prediction, ProgramSpec, Retrieved, Value

PACKAGE = "evolvent_researcher.prompts"
TEMPLATES = {"design": 1, "repair": 1, "form_edits": 1, "form_rewrite": 1}
"""The templates that a task folder may override, each with the version that is shipped."""
_FORMS: dict[Mode, str] = {"edits": "form_edits", "rewrite": "form_rewrite"}


MOST_WORDS = 8000
"""Characters of a motivation; it travels inside its fact, as all that is said about a program does."""


class Design(Value):
    """What a designer says about a program before it is measured."""

    motivation: str = Field(min_length=1, max_length=MOST_WORDS)
    cited: tuple[Annotated[str, StringConstraints(max_length=200)], ...] = Field(default=(), max_length=64)
    prediction: Prediction


class Shown(Value):
    """An earlier program as the designer sees it."""

    candidate: CandidateId
    score: Finite | None
    """None when it failed or was not measured."""
    note: str = ""
    """Its motivation, or how it failed."""
    files: Files = Field(default_factory=dict)
    """Empty when only its score and note are shown."""


class Question(Value):
    """Everything that one design is asked from."""

    brief: str
    """The task's own words: trusted, unlike all that follows."""
    objective: Objective
    program: ProgramSpec
    parents: tuple[Shown, ...] = Field(min_length=1)
    """The first is the one that edits apply to."""
    references: tuple[Shown, ...] = ()
    tried: tuple[Shown, ...] = ()
    """What this round proposed before and cognition found to repeat an earlier program."""
    found: tuple[Retrieved, ...] = ()
    steering: tuple[str, ...] = ()
    """What the user told the designers, oldest first; trusted."""
    mode: Mode = "edits"


@dataclass(frozen=True)
class Asking:
    """Which model is asked, and how."""

    model: str
    max_tokens: int
    temperature: float | None = None
    seed: int | None = None


def design_request(question: Question, asking: Asking, overrides: Mapping[str, str] | None = None) -> ModelRequest:
    """Write the question for a design. A function of its arguments, so that a replay asks the same.

    Raises:
        Refused: a template of the task folder is unusable.
    """
    design = template(PACKAGE, "design", TEMPLATES["design"], overrides)
    form = template(PACKAGE, _FORMS[question.mode], TEMPLATES[_FORMS[question.mode]], overrides)
    quotes = Quotes.around(_texts(question))
    messages = design.fill(
        boundary=quotes.boundary,
        brief=question.brief.strip(),
        objective=_objective(question.objective),
        steering="\n".join(f"- {text.strip()}" for text in question.steering) or "Nothing beyond the task.",
        entry=question.program.entry,
        functions=", ".join(question.program.functions),
        parents=_programs(question.parents, quotes),
        references=_programs(question.references, quotes) or "None yet.",
        tried=_programs(question.tried, quotes) or "Nothing yet.",
        knowledge="\n\n".join(_knowledge(question.found, quotes)) or "None yet.",
        form=_form(form, question),
    )
    return ModelRequest(
        model=asking.model,
        messages=messages,
        max_tokens=asking.max_tokens,
        temperature=asking.temperature,
        seed=asking.seed,
        prompt=design.ref,
    )


def repair_request(
    asked: ModelRequest, answer: ModelAnswer, fault: UnusableAnswer, overrides: Mapping[str, str] | None = None
) -> ModelRequest:
    """Write the one repair turn after an answer that could not be used."""
    return repaired(asked, answer, template(PACKAGE, "repair", TEMPLATES["repair"], overrides), fault=str(fault))


def read_design(answer: ModelAnswer, question: Question) -> tuple[Design, dict[str, str]]:
    """Read the design and its program, `{path: text}`.

    Citations of what was not given are dropped and named in the motivation: a good program is not lost for them.

    Raises:
        UnusableAnswer: the answer is not whole, its JSON does not fit, or its blocks do not apply (`EditError`). The
            message is written for the repair turn and names all that is wrong.
    """
    text = whole(answer)
    faults: list[str] = []
    design, program = None, None
    try:
        design = _design(text, question)
    except UnusableAnswer as fault:
        faults.append(str(fault))
    try:
        program = apply(text, question.parents[0].files, mode=question.mode)
    except EditError as fault:
        faults.append(str(fault))
    if design is None or program is None:
        raise UnusableAnswer("\n".join(dict.fromkeys(faults)))
    return design, program


def _design(text: str, question: Question) -> Design:
    found = [block for block in blocks(text) if (block.kind, block.path) == ("json", "")]
    if len(found) != 1:
        raise UnusableAnswer(f"the answer holds {len(found)} ```json blocks; it needs exactly one, before the program")
    design = fit(json_object("\n".join(found[0].lines)), Design)
    given = {item.id for item in question.found}
    dropped = [cited for cited in dict.fromkeys(design.cited) if cited not in given]
    if not dropped:
        return design
    note = f"\n\n(It also cites {', '.join(dropped)}, which it was not given.)"
    kept = tuple(cited for cited in design.cited if cited in given)
    return design.model_copy(update={"cited": kept, "motivation": design.motivation + note})


def _form(form: Template, question: Question) -> str:
    (message,) = form.fill(base=question.parents[0].candidate)
    return message.text


def _objective(objective: Objective) -> str:
    known = f" The best known value is {objective.best_known:.10g}." if objective.best_known is not None else ""
    return f"The score is {objective.metric}; {objective.direction} it.{known}"


def _texts(question: Question) -> Iterator[str]:
    for shown in (*question.parents, *question.references, *question.tried):
        yield shown.note
        for path, text in shown.files.items():
            yield from (path, text)
    for item in question.found:
        yield from (item.id, item.title, item.text, item.code)


def _programs(programs: tuple[Shown, ...], quotes: Quotes) -> str:
    return "\n\n".join(_program(shown, quotes) for shown in programs)


def _program(shown: Shown, quotes: Quotes) -> str:
    score = "not measured" if shown.score is None else f"score {shown.score:.10g}"
    note = [quotes.quote(f"note on {shown.candidate}", shown.note)] if shown.note else []
    files = [quotes.quote(f"{shown.candidate} {path}", text) for path, text in shown.files.items()]
    return "\n\n".join([f"## Program {shown.candidate}: {score}", *note, *files])


def _knowledge(found: tuple[Retrieved, ...], quotes: Quotes) -> Iterator[str]:
    for item in found:
        text = "\n\n".join(part for part in (item.title, item.text, item.code) if part)
        yield quotes.quote(f"{item.kind} {item.id}", text)
