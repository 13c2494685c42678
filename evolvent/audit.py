"""Audit a run: make every decision again from the log alone and name each that does not come out the same."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from evolvent.artifacts import Artifacts
from evolvent.errors import Unrecorded
from evolvent.journal import Effects
from evolvent.log import Log, Record
from evolvent.platform import Platform
from evolvent.serve import factory
from evolvent.service import Service
from evolvent_schemas import ROOT, EffectRecorded, Fact, HandlingFailed, Kind, RunFinished, RunHalted, fact_id
from evolvent_schemas.values import Digest, sha256

Verdict = Literal["differs", "missing", "unexplained", "another_cause", "raised"]


@dataclass(frozen=True)
class Finding:
    """One decision that does not reproduce."""

    role: str
    verdict: Verdict
    """`differs`: another body. `missing`: decided now, not on the log. `unexplained`: on the log, not decided now.
    `another_cause`: another fact's decision stands there. `raised`: the handler failed."""
    subject: str
    cause: str
    """Subject of the fact that woke the handler."""
    cause_id: str
    detail: str


@dataclass
class Audit:
    """What replaying a run found."""

    run: str
    facts: int = 0
    decisions: int = 0
    """Decisions and claims on the log that came out byte for byte the same."""
    effects: int = 0
    observations: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class RecordedLog(Log):
    """A log that answers from the run as it was read, and takes nothing."""

    subjects: dict[str, Record[Fact]] = field(default_factory=dict)

    async def read(self, subject: str) -> Record[Fact] | None:
        return self.subjects.get(subject)

    async def append(self, fact: Fact, *, cause: UUID = ROOT) -> Record[Fact]:
        raise Unrecorded(f"{fact.subject} was never recorded (cause {cause})")


class RecordedArtifacts(Artifacts):
    """Artifacts that are read; what is made anew is named, and not stored."""

    async def put(self, content: bytes) -> Digest:
        digest = sha256(content)
        self._remember(digest, content)
        return digest


async def replay(platform: Platform, run: str, roles: Sequence[str]) -> Audit:
    """Replay every decision of a run with the code that is installed.

    A run that has not finished, or was halted, may lack what was being decided when it stopped; that is no finding. Nor
    is what a role stored after the log was read, as it may for a moment after the run's end: findings are looked at
    twice.
    """
    audit = await _replay_run(platform, run, roles)
    return audit if audit.reproduced else await _replay_run(platform, run, roles)


async def _replay_run(platform: Platform, run: str, roles: Sequence[str]) -> Audit:
    records = await platform.log("audit").run(run)
    audit = Audit(run, facts=len(records))
    subjects = {record.fact.subject: record for record in records}
    cut_off = not any(isinstance(record.fact, RunFinished) for record in records)
    cut_off = cut_off or any(isinstance(record.fact, RunHalted) for record in records)
    explained: set[str] = set()
    artifacts = RecordedArtifacts(platform.wire)
    for role in roles:
        service = factory(role)(platform)
        log = RecordedLog(platform.wire, role, subjects)
        async for finding in _replay_role(service, log, artifacts, records, explained):
            if not (cut_off and finding.verdict == "missing"):
                audit.findings.append(finding)
    _count(audit, records, explained)
    return audit


async def _replay_role(
    service: Service[Any], log: RecordedLog, artifacts: Artifacts, records: Sequence[Record[Fact]], explained: set[str]
) -> AsyncIterator[Finding]:
    state = service.fold.state()
    given_up = {
        record.cause
        for record in records
        if isinstance(record.fact, HandlingFailed) and record.fact.role == service.role
    }
    for cause in records:
        state = service.fold.advance(state, cause)
        handler = service.handlers.get(type(cause.fact))
        if handler is None or cause.id in given_up:
            continue
        try:
            decided = await handler(cause, state, Effects(log, artifacts, cause, live=False))
        except Unrecorded as error:
            yield _finding(service.role, "missing", "", cause, str(error))
            continue
        except Exception as error:  # noqa: BLE001 - whatever a changed handler raises is the finding
            yield _finding(service.role, "raised", "", cause, f"{type(error).__name__}: {error}")
            continue
        for fact in decided:
            explained.add(fact.subject)
            if (finding := _compare(service.role, fact, cause, log.subjects.get(fact.subject))) is not None:
                yield finding


def _compare(role: str, fact: Fact, cause: Record[Fact], stored: Record[Fact] | None) -> Finding | None:
    if stored is None:
        return _finding(role, "missing", fact.subject, cause, "decided now, and not on the log")
    if stored.id != fact_id(cause.id, fact.subject):
        if fact.kind is not Kind.DECISION:
            return None  # another cause came first, which is what a claim is for
        return _finding(role, "another_cause", fact.subject, cause, f"the log has the decision of {stored.cause}")
    if stored.fact.body() != fact.body():
        return _finding(role, "differs", fact.subject, cause, _difference(stored.fact, fact))
    return None


def _difference(stored: Fact, decided: Fact) -> str:
    before, after = stored.model_dump(mode="json"), decided.model_dump(mode="json")
    changed = [name for name in after if before.get(name) != after[name]]
    shown = (f"{name}: {str(before.get(name))[:200]!r} became {str(after[name])[:200]!r}" for name in changed)
    return "; ".join(shown)


def _finding(role: str, verdict: Verdict, subject: str, cause: Record[Fact], detail: str) -> Finding:
    return Finding(role, verdict, subject, cause.fact.subject, str(cause.id), detail)


def _count(audit: Audit, records: Sequence[Record[Fact]], explained: set[str]) -> None:
    """Count what was reproduced, and name the decisions that no handler makes now."""
    wrong = {finding.subject for finding in audit.findings}
    given_up = {record.fact.handled for record in records if isinstance(record.fact, HandlingFailed)}
    ids = {record.id: record.fact.subject for record in records}
    for record in records:
        subject = record.fact.subject
        if isinstance(record.fact, EffectRecorded):
            audit.effects += 1
        elif record.fact.kind is Kind.OBSERVATION:
            audit.observations += 1
        elif subject in explained:
            audit.decisions += subject not in wrong
        elif ids.get(record.cause) not in given_up:
            cause = ids.get(record.cause, "")
            role = record.source.rpartition("/")[2]
            detail = "no handler decides this now"
            audit.findings.append(Finding(role, "unexplained", subject, cause, str(record.cause), detail))
