"""Why a candidate is what it is: the chain of causes on the log, from its round to its result."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evolvent.log import Record
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    CandidateScreened,
    ContextSampled,
    DiscoveryClaimed,
    EffectRecorded,
    ExperimentCompleted,
    ExperimentFailed,
    ExperimentStarted,
    Fact,
    HandlingFailed,
    KnowledgeRetrieved,
    RoundClosed,
    RoundExhausted,
    RoundExpired,
    RoundOpened,
    RunFinished,
    RunPaused,
)


@dataclass(frozen=True)
class Link:
    """One fact of the chain."""

    depth: int
    """Causes between it and the opening of its round."""
    type: str
    subject: str
    time: datetime
    source: str
    because: str
    """Subject of its cause."""
    says: str

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "time": self.time.isoformat()}


def chain(records: Sequence[Record[Fact]], candidate: str) -> list[Link]:
    """List every fact that led to a candidate and that it led to, in log order, its round's opening first.

    Facts of other attempts of the same round are among them, because a duplicate is why there was another attempt.
    """
    number = candidate.partition(".")[0]
    by_id = {record.id: record for record in records}
    opening = next((r for r in records if isinstance(r.fact, RoundOpened) and r.fact.round == number), None)
    if opening is None:
        return []
    depths = {opening.id: 0}
    links = [_link(opening, by_id, 0)]
    for record in records:
        if record.cause in depths and _belongs(record.fact, number):
            depths[record.id] = depths[record.cause] + 1
            links.append(_link(record, by_id, depths[record.id]))
    return links


def _belongs(fact: Fact, number: str) -> bool:
    """Keep what is about this round; its closer also opens the next."""
    return not isinstance(fact, RoundOpened) or fact.round == number


def _link(record: Record[Fact], by_id: dict[Any, Record[Fact]], depth: int) -> Link:
    cause = by_id.get(record.cause)
    return Link(
        depth=depth,
        type=record.fact.type,
        subject=record.fact.subject,
        time=record.time,
        source=record.source,
        because=cause.fact.subject if cause else "outside input",
        says=" ".join(_says(record.fact).split()),
    )


def _says(fact: Fact) -> str:  # noqa: C901, PLR0912 - one arm for each fact that has something to say
    match fact:
        case RoundOpened(grant=grant):
            return f"{grant.attempts} attempts, {grant.compute_seconds:g} s of compute"
        case ContextSampled(parents=parents, sampler=sampler, pool=pool):
            chosen = ", ".join(f"{choice.candidate} (weight {choice.weight:.4g})" for choice in parents)
            return f"{sampler} chose {chosen} from {pool} measured"
        case KnowledgeRetrieved(found=found):
            return "found " + (", ".join(f"{one.id} ({one.score:.3g})" for one in found) or "nothing")
        case CandidateProposed() as proposed:
            cited = f" (cites {', '.join(proposed.cited)})" if proposed.cited else ""
            return f"{proposed.candidate} by {proposed.proposer}: {proposed.motivation}{cited}"
        case CandidateScreened(candidate=name, verdict=verdict, of=of):
            return f"{name} is {verdict}" + (f" of {of}" if of else "")
        case ExperimentStarted(tier=tier, backend=backend):
            return f"on {backend}, sandbox {tier}"
        case ExperimentCompleted(score=score, wall_seconds=seconds):
            return f"scored {score:.10g} in {seconds:.2f} s"
        case ExperimentFailed(reason=reason, message=message):
            return f"{reason}: {message[:200]}"
        case CandidateAnalyzed() as analyzed:
            return "; ".join(lesson.effect for lesson in analyzed.lessons) or f"score {analyzed.score}"
        case DiscoveryClaimed(score=score, previous=previous):
            return f"{score:.10g} beats every score before" + (
                f", the best of them {previous:.10g}" if previous is not None else ""
            )
        case RoundExhausted(reason=reason):
            return reason
        case RoundExpired(open_seconds=seconds):
            return f"open for {seconds:.0f} s"
        case RoundClosed(outcome=outcome):
            return outcome
        case RunFinished(message=message) | RunPaused(message=message):
            return message
        case EffectRecorded(role=role, name=name, outcome=outcome):
            return f"{role} asked {name}: {outcome}"
        case HandlingFailed(role=role, reason=reason, error=error):
            return f"{role} gave up: {reason}: {error[:200]}"
        case _:
            return ""
