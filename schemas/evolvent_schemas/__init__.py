"""The contract: facts, values and subjects. pydantic only; imports nothing of ours."""

from evolvent_schemas.catalog import FACTS, decode, filter_for
from evolvent_schemas.fact import ROOT, Fact, Kind, fact_id
from evolvent_schemas.facts.candidate import CandidateAnalyzed, CandidateProposed, CandidateRepaired, CandidateScreened
from evolvent_schemas.facts.context import ContextSampled
from evolvent_schemas.facts.directive import (
    Approve,
    DirectiveIssued,
    DirectiveRefused,
    Halt,
    Pause,
    Request,
    Resume,
    Start,
    Steer,
    Submit,
)
from evolvent_schemas.facts.discovery import (
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    DiscoveryClaimed,
    DiscoveryConfirmed,
    DiscoveryRefuted,
    LogSealed,
)
from evolvent_schemas.facts.experiment import (
    ExperimentCompleted,
    ExperimentFailed,
    ExperimentRequested,
    ExperimentStarted,
)
from evolvent_schemas.facts.handling import EffectRecorded, HandlingFailed
from evolvent_schemas.facts.knowledge import KnowledgeIngested, KnowledgeRetrieved
from evolvent_schemas.facts.round import RoundClosed, RoundExhausted, RoundExpired, RoundOpened
from evolvent_schemas.facts.run import (
    RunFinished,
    RunForked,
    RunHalted,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSteered,
)

__all__ = [
    "FACTS", "ROOT", "ApprovalDenied", "ApprovalGranted", "ApprovalRequested", "Approve", "CandidateAnalyzed",
    "CandidateProposed", "CandidateRepaired", "CandidateScreened", "ContextSampled", "DirectiveIssued",
    "DirectiveRefused", "DiscoveryClaimed", "DiscoveryConfirmed", "DiscoveryRefuted", "EffectRecorded",
    "ExperimentCompleted", "ExperimentFailed", "ExperimentRequested", "ExperimentStarted", "Fact", "Halt",
    "HandlingFailed", "Kind", "KnowledgeIngested", "KnowledgeRetrieved", "LogSealed", "Pause", "Request", "Resume",
    "RoundClosed", "RoundExhausted", "RoundExpired", "RoundOpened", "RunFinished", "RunForked", "RunHalted",
    "RunPaused", "RunResumed", "RunStarted", "RunSteered", "Start", "Steer", "Submit", "decode", "fact_id",
    "filter_for",
]  # fmt: skip
