"""Every fact there is, by wire type."""

from evolvent_schemas import subjects
from evolvent_schemas.fact import Fact
from evolvent_schemas.facts import candidate, context, directive, discovery, experiment, handling, knowledge, run
from evolvent_schemas.facts import round as rounds

FACTS: dict[str, type[Fact]] = {
    cls.model_fields["type"].default: cls
    for cls in (
        directive.DirectiveIssued,
        directive.DirectiveRefused,
        run.RunStarted,
        run.RunPaused,
        run.RunResumed,
        run.RunSteered,
        run.RunHalted,
        run.RunFinished,
        run.RunForked,
        rounds.RoundOpened,
        rounds.RoundExhausted,
        rounds.RoundExpired,
        rounds.RoundClosed,
        context.ContextSampled,
        knowledge.KnowledgeIngested,
        knowledge.KnowledgeRetrieved,
        candidate.CandidateProposed,
        candidate.CandidateScreened,
        candidate.CandidateRepaired,
        candidate.CandidateAnalyzed,
        experiment.ExperimentRequested,
        experiment.ExperimentStarted,
        experiment.ExperimentCompleted,
        experiment.ExperimentFailed,
        discovery.DiscoveryClaimed,
        discovery.DiscoveryConfirmed,
        discovery.DiscoveryRefuted,
        discovery.ApprovalRequested,
        discovery.ApprovalGranted,
        discovery.ApprovalDenied,
        discovery.LogSealed,
        handling.EffectRecorded,
        handling.HandlingFailed,
    )
}


def decode(subject: str, body: bytes) -> Fact:
    """Read a fact; fields that a newer writer added are ignored.

    Raises:
        ValueError: the subject is no fact's, its type is unknown, or the body does not fit (pydantic's error is one).
    """
    address = subjects.parse(subject)
    cls = FACTS.get(address.type)
    if cls is None:
        raise ValueError(f"no fact has the type {address.type!r}")
    fact = cls.model_validate_json(body, extra="ignore")
    if fact.subject != subject:
        raise ValueError(f"the body belongs on {fact.subject!r}, not on {subject!r}")
    return fact


def filter_for(cls: type[Fact], run: str = "*") -> str:
    """Spell the subject filter for every fact of a class."""
    return subjects.pattern(cls.model_fields["type"].default, keyed=bool(cls.key_fields), run=run)


def woken(role: str) -> list[type[Fact]]:
    """List the facts whose delivery wakes a role."""
    return [cls for cls in FACTS.values() if role in cls.wakes]
