"""What the researcher does when a fact wakes it: sample a context, design a candidate, try again on a duplicate."""

from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.clock import seeded
from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.models.access import Access
from evolvent.service import Handler
from evolvent_researcher import operators
from evolvent_researcher.designer import design
from evolvent_researcher.samplers import SAMPLERS
from evolvent_researcher.studio import Desk, Studio
from evolvent_schemas import (
    CandidateProposed,
    CandidateScreened,
    ContextSampled,
    Fact,
    KnowledgeRetrieved,
    RoundExhausted,
    RoundOpened,
)
from evolvent_schemas.values import Program, RunSettings


async def on_round_opened(cause: Record[RoundOpened], studio: Studio, _effects: Effects) -> Sequence[Fact]:
    """Sample the round's context, or propose the submitted program as it stands."""
    opened = cause.fact
    if opened.submission is not None:
        return [_submitted(opened, opened.submission)]
    settings = _settings(studio)
    rng = seeded(settings.seed, opened, "context")
    seed = rng.getrandbits(62)
    chosen = SAMPLERS[settings.sampler](studio, settings.parents + settings.references, rng)
    return [
        ContextSampled(
            run=opened.run,
            round=opened.round,
            parents=chosen[: settings.parents],
            references=chosen[settings.parents :],
            sampler=settings.sampler,
            seed=seed,
            pool=len(studio.measured),
        )
    ]


def _submitted(opened: RoundOpened, program: Program) -> CandidateProposed:
    return CandidateProposed(
        run=opened.run,
        candidate=f"{opened.round}.0",
        program=program,
        proposer="submitted",
        motivation=opened.note or "submitted as it stands",
    )


@dataclass(frozen=True)
class Researcher:
    """The handlers, with access to models for the runs that name some."""

    access: Access

    @property
    def handlers(self) -> dict[type[Fact], Handler]:
        return {
            RoundOpened: on_round_opened,
            KnowledgeRetrieved: self.on_retrieved,
            CandidateScreened: self.on_screened,
        }

    async def on_retrieved(self, cause: Record[KnowledgeRetrieved], studio: Studio, effects: Effects) -> Sequence[Fact]:
        """Make the round's first proposal."""
        desk = studio.desks.get(cause.fact.round)
        return [] if desk is None else [await self._design(cause, f"{cause.fact.round}.0", desk, studio, effects)]

    async def on_screened(self, cause: Record[CandidateScreened], studio: Studio, effects: Effects) -> Sequence[Fact]:
        """Answer a duplicate with the next attempt, or with the end of the attempts."""
        screened = cause.fact
        number, _, attempt = screened.candidate.partition(".")
        desk = studio.desks.get(number)
        if screened.verdict == "new" or desk is None:
            return []
        tried = int(attempt) + 1
        if desk.submitted or tried >= desk.grant.attempts:
            reason = f"{screened.candidate} repeats {screened.of}"
            return [RoundExhausted(run=screened.run, round=number, attempts=tried, reason=reason)]
        return [await self._design(cause, f"{number}.{tried}", desk, studio, effects)]

    async def _design(
        self, cause: Record[Fact], candidate: str, desk: Desk, studio: Studio, effects: Effects
    ) -> CandidateProposed | RoundExhausted:
        if _settings(studio).proposer == "llm":
            return await design(cause, candidate, desk, studio, effects=effects, access=self.access)
        return await _operate(cause, candidate, desk, studio, effects)


async def _operate(
    cause: Record[Fact], candidate: str, desk: Desk, studio: Studio, effects: Effects
) -> CandidateProposed:
    settings = _settings(studio)
    members = [studio.members[name] for name in (*desk.parents, *desk.references)]
    parents = [
        operators.Parent(member.candidate, await effects.artifacts.files(member.program), member.fitness or 0.0)
        for member in members
    ]
    snippets = [operators.Snippet(found.id, found.title, found.code) for found in desk.found if found.code]
    rng = seeded(settings.seed, cause.fact, "design")
    proposal = operators.propose(rng, parents, snippets, settings.task.program)
    program = Program.of(proposal.files)
    await effects.artifacts.put_program(program, proposal.files)
    return CandidateProposed(
        run=cause.fact.run,
        candidate=candidate,
        program=program,
        parents=desk.parents,
        proposer=f"operators/{proposal.operator}",
        motivation=proposal.motivation,
        cited=proposal.cited,
    )


def _settings(studio: Studio) -> RunSettings:
    assert studio.settings is not None, "a round opens only in a run that has started"
    return studio.settings
