"""What cognition does when a fact wakes it: ingest a task's knowledge, retrieve for a design, screen a program."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from evolvent import knowledge, task
from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.service import Handler
from evolvent_cognition.documents import Document
from evolvent_cognition.memory import Memory
from evolvent_cognition.novelty import fingerprint
from evolvent_cognition.shelves import Shelves, known_items
from evolvent_schemas import (
    CandidateProposed,
    CandidateScreened,
    ContextSampled,
    Fact,
    KnowledgeIngested,
    KnowledgeRetrieved,
    RunStarted,
    subjects,
)
from evolvent_schemas.values import BASELINE, Retrieved, canonical

RELEVANT = 3
"""Items and lessons that a design is given because they fit its parents."""
OVERLOOKED = 2
"""Items it is given because they were shown least: relevance alone would show the same few for ever."""


@dataclass(frozen=True)
class Cognition:
    """The handlers, over the one index that this process owns."""

    shelves: Shelves

    @property
    def handlers(self) -> dict[type[Fact], Handler]:
        return {RunStarted: on_run_started, ContextSampled: self.on_sampled, CandidateProposed: on_proposed}

    async def on_sampled(self, cause: Record[ContextSampled], memory: Memory, effects: Effects) -> Sequence[Fact]:
        """Retrieve what fits the chosen parents. The fact is its own record."""
        sampled = cause.fact
        subject = subjects.fact(sampled.run, "knowledge.retrieved", sampled.round)

        async def retrieve() -> KnowledgeRetrieved:
            queries = _queries(sampled, memory)
            library = await self.shelves.filled(sampled.run, memory, effects.artifacts)
            found = await library.search(queries, up_to=memory.documents - 1, limit=RELEVANT)
            items = await known_items(memory, effects.artifacts)
            return KnowledgeRetrieved(
                run=sampled.run,
                round=sampled.round,
                queries=(*queries, "the items that were shown least"),
                found=(*found, *_overlooked(items, memory, found, query=len(queries))),
                documents=memory.documents,
            )

        await effects.observe((subject,), retrieve)
        return []


async def on_run_started(cause: Record[RunStarted], _memory: Memory, effects: Effects) -> Sequence[Fact]:
    """Make the task's knowledge available to every later retrieval."""
    bundle = orjson.loads(await effects.artifacts.get(cause.fact.settings.bundle))
    with tempfile.TemporaryDirectory() as folder:
        _lay_out(bundle, Path(folder))
        items = knowledge.load(Path(folder))
    digest = await effects.artifacts.put(canonical([item.model_dump(mode="json") for item in items]))
    return [KnowledgeIngested(run=cause.fact.run, batch="task", items=digest, count=len(items))]


def _lay_out(bundle: dict[str, str], folder: Path) -> None:
    shelf = {name.removeprefix("knowledge/"): content for name, content in bundle.items() if name[:10] == "knowledge/"}
    task.unpack(canonical(shelf), folder / "knowledge")


async def on_proposed(cause: Record[CandidateProposed], memory: Memory, effects: Effects) -> Sequence[Fact]:
    """Compare the program with all that came before it in the log, those not screened yet included.

    The baseline is always new: everything is compared with its score, also where a user submitted the same before.
    """
    proposed = cause.fact
    own = fingerprint(await effects.artifacts.files(proposed.program))
    earlier = memory.fingerprints.get(own)
    for candidate, program in memory.unscreened.items():
        if earlier is None and candidate != proposed.candidate:
            same = fingerprint(await effects.artifacts.files(program)) == own
            earlier = candidate if same else None
    if proposed.candidate == BASELINE:
        earlier = None
    verdict = "new" if earlier is None else "duplicate"
    screened = CandidateScreened.model_validate(
        {"run": proposed.run, "candidate": proposed.candidate, "verdict": verdict, "of": earlier, "fingerprint": own}
    )
    return [screened]


def _overlooked(
    items: Sequence[Document], memory: Memory, found: Sequence[Retrieved], *, query: int
) -> list[Retrieved]:
    """Choose the items shown least, the first ingested first; the score is one over the times and one."""
    shown = {retrieved.id for retrieved in found}
    ranked = sorted(items, key=lambda item: (memory.shown.get(item.id, 0), item.ordinal))
    return [
        Retrieved(**item.model_dump(exclude={"ordinal"}), score=1 / (1 + memory.shown.get(item.id, 0)), query=query)
        for item in ranked
        if item.id not in shown
    ][:OVERLOOKED]


def _queries(sampled: ContextSampled, memory: Memory) -> tuple[str, ...]:
    """Ask with the task's title and with what each parent was about."""
    assert memory.settings is not None
    about = [memory.about.get(choice.candidate, "") for choice in sampled.parents]
    return tuple(query for query in (memory.settings.task.title, *about) if query)
