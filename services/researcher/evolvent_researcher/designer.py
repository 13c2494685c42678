"""Designs by a model: what is asked, how often, and what becomes of answers that cannot be used."""

from dataclasses import dataclass
from types import MappingProxyType

from evolvent.errors import Permanent, Refused
from evolvent.journal import EffectFailed, Effects
from evolvent.log import Record
from evolvent.models.access import Access
from evolvent.models.bandit import Arm, choose, finished, started
from evolvent.models.journaled import Asker, Exchange, Form, converse, total
from evolvent.models.purse import Allowance
from evolvent.population import Member
from evolvent_researcher.prompts import (
    Asking,
    Design,
    Question,
    Shown,
    design_request,
    read_design,
    repair_request,
)
from evolvent_researcher.studio import LLM, Desk, Studio
from evolvent_schemas import CandidateProposed, Fact, RoundExhausted
from evolvent_schemas.values import Files, ModelCall, Program, RunSettings

Designed = Exchange[tuple[Design, Files]]


async def design(
    cause: Record[Fact], candidate: str, desk: Desk, studio: Studio, *, effects: Effects, access: Access
) -> CandidateProposed | RoundExhausted:
    """Propose a program, counting each pair of unusable answers as an attempt; or say that the attempts are used up.

    Raises:
        EffectFailed: the endpoint refuses for good, or the grant does not cover a single call.
        Permanent: the run names no model, or one of the task's own prompts is unusable.
    """
    number, _, attempt = candidate.partition(".")
    session = await _session(cause, number, desk, studio, effects=effects, access=access)
    for tried in range(int(attempt), desk.grant.attempts):
        try:
            exchange = await session.attempt(tried)
        except EffectFailed as error:
            if error.reason != "grant_exceeded" or not (session.calls or desk.cost.tokens):
                raise
            return session.exhausted(max(tried, 1), f"the round's grant is used up: {error}")
        if exchange.value is not None:
            return await session.proposed(f"{number}.{tried}", exchange.value)
        session.again(exchange)
    return session.exhausted(desk.grant.attempts, f"no answer could be used, the last because: {session.fault}")


async def _session(
    cause: Record[Fact], number: str, desk: Desk, studio: Studio, *, effects: Effects, access: Access
) -> "_Session":
    settings = studio.settings
    assert settings is not None
    if not desk.model:
        raise Permanent("the run names no model: start it with `--model NAME`")
    briefing = await access.briefing(effects.artifacts, settings.bundle)
    question = Question(
        brief=briefing.brief,
        objective=settings.task.objective,
        program=settings.task.program,
        parents=await _shown([studio.members[name] for name in desk.parents], effects),
        references=await _shown([studio.members[name] for name in desk.references], effects),
        tried=await _shown(_tried(number, studio), effects),
        found=desk.found,
        steering=studio.steering,
        mode=settings.edit_mode,
    )
    allowance = Allowance(run=cause.fact.run, round=number, grant=desk.grant, spent=desk.cost)
    asker = Asker(effects, access, allowance)
    return _Session(asker, settings, briefing.prompts, question, studio, desk, desk.model, dict(studio.arms))


def _tried(number: str, studio: Studio) -> list[Member]:
    names = (f"{number}.{attempt}" for attempt in range(100))
    return [studio.members[name] for name in names if name in studio.members]


async def _shown(members: list[Member], effects: Effects) -> tuple[Shown, ...]:
    return tuple([await _one(member, effects) for member in members])


async def _one(member: Member, effects: Effects) -> Shown:
    failed = f"\n\nIt failed: {member.failure}: {member.message}" if member.failure else ""
    return Shown(
        candidate=member.candidate,
        score=member.score,
        note=member.motivation + failed,
        files=await effects.artifacts.files(member.program),
    )


@dataclass
class _Session:
    """The attempts that one fact leads to."""

    asker: Asker
    settings: RunSettings
    prompts: MappingProxyType[str, str]
    question: Question
    studio: Studio
    desk: Desk
    model: str
    arms: dict[str, Arm]
    calls: tuple[ModelCall, ...] = ()
    fault: str = ""

    async def attempt(self, number: int) -> Designed:
        asking = Asking(self.model, self.settings.max_tokens, self.settings.temperature)
        try:
            request = design_request(self.question, asking, self.prompts)
        except Refused as error:
            raise Permanent(str(error)) from None
        form = Form(
            "design",
            lambda answer: read_design(answer, self.question),
            lambda asked, answer, fault: repair_request(asked, answer, fault, self.prompts),
        )
        exchange = await converse(self.asker, f"design-{number}", request, form)
        self.calls += exchange.calls
        return exchange

    def again(self, exchange: Designed) -> None:
        """Turn to the next attempt: whole files, because edits that do not apply twice seldom do at the third time."""
        self.fault = exchange.fault
        self.asker = self.asker.after(exchange.cost)
        self.question = self.question.model_copy(update={"mode": "rewrite"})
        arms = finished(self.arms, self.model, improvement=0.0, usd=exchange.cost.usd)
        self.model = choose(arms, per=self.settings.weigh_models)
        self.arms = started(arms, self.model)

    async def proposed(self, candidate: str, designed: tuple[Design, Files]) -> CandidateProposed:
        said, files = designed
        program = Program.of(files)
        effects = self.asker.effects
        await effects.artifacts.put_program(program, files)
        return CandidateProposed(
            run=effects.cause.fact.run,
            candidate=candidate,
            program=program,
            parents=self.desk.parents,
            proposer=f"{LLM}{self.model}",
            motivation=said.motivation,
            cited=said.cited,
            prediction=said.prediction,
            calls=self.calls,
            cost=total(self.calls),
        )

    def exhausted(self, attempts: int, reason: str) -> RoundExhausted:
        allowance = self.asker.allowance
        return RoundExhausted(
            run=allowance.run,
            round=allowance.round,
            attempts=attempts,
            reason=reason,
            calls=self.calls,
            cost=total(self.calls),
        )
