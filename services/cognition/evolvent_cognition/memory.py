"""Cognition's state: what can be retrieved, and what has been proposed before."""

from collections.abc import Sequence

from pydantic import Field

from evolvent.folds import Fold, Map, State, empty
from evolvent.log import Record
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    CandidateScreened,
    ContextSampled,
    Fact,
    KnowledgeIngested,
    KnowledgeRetrieved,
    RunStarted,
)
from evolvent_schemas.values import Digest, Lesson, Program, Retrieved, RunSettings, Value


class Batch(Value):
    """Items that came in together."""

    first: int
    """Ordinal of the batch's first document."""
    items: Digest
    count: int


class Taught(Value):
    """One lesson with its place among the documents."""

    candidate: str
    number: int
    lesson: Lesson


class Memory(State):
    """Documents in the order of the log, fingerprints of all programs, and what parents were about."""

    settings: RunSettings | None = None
    batches: tuple[Batch, ...] = ()
    lessons: Map[int, Taught] = Field(default_factory=empty)
    """By ordinal."""
    documents: int = 0
    """Items and lessons so far; the next one's ordinal."""
    fingerprints: Map[str, str] = Field(default_factory=empty)
    """First candidate with each fingerprint."""
    unscreened: dict[str, Program] = Field(default_factory=dict)
    """Those of the open rounds, in log order: the first of equal programs is the new one. A `Map` keeps no order."""
    shown: Map[str, int] = Field(default_factory=empty)
    """In how many rounds each item or lesson was retrieved."""
    about: Map[str, str] = Field(default_factory=empty)
    """What each candidate tried and what came of it, in words to search with."""


def step(memory: Memory, record: Record[Fact]) -> Memory:
    """Fold one fact. Pure and total."""
    match record.fact:
        case RunStarted(settings=settings):
            return memory.evolve(settings=settings)
        case KnowledgeIngested(items=items, count=count):
            batch = Batch(first=memory.documents, items=items, count=count)
            return memory.evolve(batches=(*memory.batches, batch), documents=memory.documents + count)
        case KnowledgeRetrieved(found=found):
            return _shown(memory, found)
        case CandidateProposed(candidate=candidate, program=program, motivation=motivation):
            return memory.evolve(
                unscreened={**memory.unscreened, candidate: program},
                about=memory.about.insert(candidate, motivation),
            )
        case CandidateScreened() as screened:
            return _screened(memory, screened)
        case CandidateAnalyzed() as analyzed:
            return _learned(memory, analyzed)
        case _:
            return memory


def _shown(memory: Memory, found: Sequence[Retrieved]) -> Memory:
    shown = memory.shown
    for one in found:
        shown = shown.insert(one.id, shown.get(one.id, 0) + 1)
    return memory.evolve(shown=shown)


def _screened(memory: Memory, screened: CandidateScreened) -> Memory:
    waiting = {name: program for name, program in memory.unscreened.items() if name != screened.candidate}
    memory = memory.evolve(unscreened=waiting)
    if screened.verdict == "duplicate":
        return memory.evolve(about=memory.about.discard(screened.candidate))
    return memory.evolve(fingerprints=memory.fingerprints.insert(screened.fingerprint, screened.candidate))


def _learned(memory: Memory, analyzed: CandidateAnalyzed) -> Memory:
    for number, lesson in enumerate(analyzed.lessons):
        taught = Taught(candidate=analyzed.candidate, number=number, lesson=lesson)
        memory = memory.evolve(lessons=memory.lessons.insert(memory.documents, taught), documents=memory.documents + 1)
    words = " ".join((memory.about.get(analyzed.candidate, ""), *(lesson.attempt for lesson in analyzed.lessons)))
    return memory.evolve(about=memory.about.insert(analyzed.candidate, words[:1000]))


FOLD = Fold(
    name="memory",
    version=3,
    state=Memory,
    facts=(
        RunStarted,
        KnowledgeIngested,
        ContextSampled,
        KnowledgeRetrieved,
        CandidateProposed,
        CandidateScreened,
        CandidateAnalyzed,
    ),
    step=step,
)
