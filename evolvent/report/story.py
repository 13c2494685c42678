"""Tell a run from its log: facts in, one `Report` out. Pure; the same facts give the same report."""

from collections import Counter
from collections.abc import Iterable, Mapping

from evolvent.errors import Refused
from evolvent.log import Record
from evolvent.report import candidates as family
from evolvent.report import costs, evidence, noise
from evolvent.report.candidates import Records, of
from evolvent.report.values import Candidate, Claim, Counts, Happening, Point, Report, Rounds, Standing, Verdict, Word
from evolvent.summary import FOLD, Summary
from evolvent_schemas import (
    CandidateAnalyzed,
    DirectiveRefused,
    DiscoveryClaimed,
    DiscoveryConfirmed,
    DiscoveryRefuted,
    Fact,
    HandlingFailed,
    RoundClosed,
    RunFinished,
    RunForked,
    RunHalted,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSteered,
)
from evolvent_schemas.values import Objective


def summary_of(records: Records) -> Summary:
    """Fold the facts of one run."""
    summary = Summary()
    for record in records:
        summary = FOLD.advance(summary, record)
    return summary


def tell(records: Records, program: Mapping[str, str] | None = None) -> Report:
    """Tell a run; `program` are the best candidate's files, which may be an artifact.

    Raises:
        Refused: the facts hold no `run.started`.
    """
    summary = summary_of(records)
    started = next(iter(of(records, RunStarted)), None)
    if started is None or summary.settings is None or summary.started is None:
        raise Refused("there is nothing to report of a run that has not started")
    members = family.candidates(records, summary)
    return Report(
        run=summary.run,
        title=summary.settings.task.title,
        user=started.user,
        state=summary.state,
        message=summary.message,
        started=summary.started,
        last=records[-1].time,
        facts=len(records),
        objective=summary.settings.task.objective,
        settings=summary.settings,
        steering=tuple(fact.text for fact in of(records, RunSteered)),
        rounds=_rounds(records, summary),
        counts=_counts(summary),
        standing=_standing(records, summary, members),
        curve=tuple(_curve(records, summary)),
        candidates=members,
        path=family.ancestry(summary.members, summary.best.candidate if summary.best else None),
        program=dict(program or {}),
        lessons=evidence.lessons(records, members),
        knowledge_items=evidence.ingested(records),
        citations=evidence.citations(records, members),
        proposers=evidence.proposers(members),
        predictions=evidence.predictions(records),
        costs=costs.costs(records, summary.cost),
        happenings=tuple(_happenings(records)),
        check=(f"evolvent audit replay {summary.run}", f"evolvent tail {summary.run} --json"),
    )


def _rounds(records: Records, summary: Summary) -> Rounds:
    assert summary.settings is not None
    return Rounds(
        budget=summary.settings.budget.rounds,
        closed=summary.closed,
        failed=summary.failed,
        open=tuple(sorted(summary.open)),
        outcomes=dict(sorted(Counter(fact.outcome for fact in of(records, RoundClosed)).items())),
    )


def _counts(summary: Summary) -> Counts:
    settled = len(summary.measured), summary.failures, summary.duplicates
    return Counts(
        proposed=len(summary.members),
        measured=settled[0],
        failed=settled[1],
        duplicates=settled[2],
        pending=len(summary.members) - sum(settled),
    )


def _standing(records: Records, summary: Summary, members: tuple[Candidate, ...]) -> Standing:
    assert summary.settings is not None
    by_name = {each.candidate: each for each in members}
    baseline, best = summary.baseline, summary.best
    objective = summary.settings.task.objective
    claims = tuple(_claim(fact) for fact in of(records, DiscoveryClaimed))
    verdicts = tuple(_verdict(record.fact) for record in records if isinstance(record.fact, _VERDICTS))
    gain = _between(objective, best.score if best else None, baseline.score if baseline else None)
    return Standing(
        word=_word(best.candidate if best else "", gain, verdicts),
        stage=family.proxy(summary),
        measured=len(summary.measured),
        baseline=noise.estimate(by_name.get(baseline.candidate)) if baseline else None,
        best=noise.estimate(by_name.get(best.candidate)) if best else None,
        gain=gain,
        gap=_between(objective, best.score if best else None, objective.best_known),
        noise=noise.pooled(members),
        claims=claims,
        verdicts=verdicts,
    )


_VERDICTS = (DiscoveryConfirmed, DiscoveryRefuted)


def _word(best: str, gain: float | None, verdicts: Iterable[Verdict]) -> Word:
    """Say what stands: the last verdict on the best candidate, else whether it is more than the baseline."""
    if gain is None or gain <= 0:
        return "nothing"
    decided = [verdict.confirmed for verdict in verdicts if verdict.candidate == best]
    return ("confirmed" if decided[-1] else "refuted") if decided else "claim"


def _between(objective: Objective, score: float | None, other: float | None) -> float | None:
    if score is None or other is None:
        return None
    return objective.fitness(score) - objective.fitness(other)


def _claim(fact: DiscoveryClaimed) -> Claim:
    return Claim(candidate=fact.candidate, stage=fact.stage, score=fact.score, previous=fact.previous)


def _verdict(fact: DiscoveryConfirmed | DiscoveryRefuted) -> Verdict:
    return Verdict(
        candidate=fact.candidate,
        confirmed=isinstance(fact, DiscoveryConfirmed),
        stage=fact.stage,
        seeds=fact.seeds,
        difference=fact.difference,
        low=fact.low,
        high=fact.high,
        p_value=fact.p_value,
    )


def _curve(records: Records, summary: Summary) -> Iterable[Point]:
    """List measurements and failures in log order; a round that no candidate closed is a failure of its own."""
    assert summary.settings is not None
    objective, stage = summary.settings.task.objective, family.proxy(summary)
    best: float | None = None
    for record in records:
        match record.fact:
            case CandidateAnalyzed(score=float(score)) as fact if fact.stage == stage:
                leads = best is None or objective.fitness(score) > objective.fitness(best)
                best = score if leads else best
                yield _point(fact.candidate, "", best, score=score, leads=leads)
            case CandidateAnalyzed() as fact if fact.stage == stage:
                yield _point(fact.candidate, f"{fact.failure}: {fact.message}", best)
            case RoundClosed(candidate=None) as closed:
                fault = f"{closed.outcome}: {closed.message}"
                yield Point(round=closed.round, candidate=None, score=None, fault=fault, best=best, leads=False)
            case _:
                pass


def _point(candidate: str, fault: str, best: float | None, *, score: float | None = None, leads: bool = False) -> Point:
    number = candidate.partition(".")[0]
    return Point(round=number, candidate=candidate, score=score, fault=fault, best=best, leads=leads)


def _happenings(records: Records) -> Iterable[Happening]:
    for record in records:
        if (text := _says(record)) is not None:
            yield Happening(time=record.time, type=record.fact.type, text=text)


def _says(record: Record[Fact]) -> str | None:
    match record.fact:
        case RunStarted(user=user):
            return f"by {user}"
        case RunPaused(reason=reason, message=message):
            return f"{reason}: {message}"
        case RunResumed():
            return ""
        case RunSteered(text=text):
            return text
        case RunForked(origin=origin, at=at):
            return f"from {origin} at round {at}"
        case RunHalted(reason=reason) | DirectiveRefused(reason=reason):
            return reason
        case HandlingFailed(role=role, handled=handled, reason=reason, error=error):
            return f"{role} could not handle {handled}: {reason}: {error}"
        case RunFinished(state=state, message=message):
            return f"{state}: {message}"
        case _:
            return None
