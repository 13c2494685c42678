"""What the run learned and leaned on: lessons, knowledge, proposers, predictions, each with how it turned out."""

import statistics
from collections import Counter
from collections.abc import Sequence

from evolvent.report.candidates import Records, of
from evolvent.report.values import Candidate, Citation, Gains, Predictions, ProposerShare, Taught
from evolvent_schemas import CandidateAnalyzed, KnowledgeIngested, KnowledgeRetrieved


def gains(group: Sequence[Candidate]) -> Gains:
    """Sum up what a group of candidates gained."""
    status = Counter(each.status for each in group)
    values = [each.gain for each in group if each.gain is not None]
    return Gains(
        proposed=len(group),
        measured=status["measured"],
        failed=status["failed"],
        duplicates=status["duplicate"],
        compared=len(values),
        improved=sum(value > 0 for value in values),
        mean=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        most=max(values, default=None),
    )


def lessons(records: Records, candidates: Sequence[Candidate]) -> tuple[Taught, ...]:
    """List every lesson in log order; its id is the one that retrieval knows it by."""
    cited = Counter(name for each in candidates for name in set(each.cited))
    return tuple(
        Taught(
            id=(name := f"{fact.candidate}-{index}"),
            candidate=fact.candidate,
            stage=fact.stage,
            lesson=lesson,
            cited=cited[name],
        )
        for fact in of(records, CandidateAnalyzed)
        for index, lesson in enumerate(fact.lessons)
    )


def ingested(records: Records) -> int:
    return sum(fact.count for fact in of(records, KnowledgeIngested))


def citations(records: Records, candidates: Sequence[Candidate]) -> tuple[Citation, ...]:
    """List what was retrieved or cited: the most cited first, then the most retrieved, then by id."""
    found = [one for fact in of(records, KnowledgeRetrieved) for one in {one.id: one for one in fact.found}.values()]
    known = {one.id: one for one in found}
    times = Counter(one.id for one in found)
    citing: dict[str, list[Candidate]] = {name: [] for name in known}
    for each in candidates:
        for name in dict.fromkeys(each.cited):
            citing.setdefault(name, []).append(each)
    rows = (
        Citation(
            id=name,
            kind=known[name].kind if name in known else "unknown",
            title=known[name].title if name in known else name,
            retrieved=times[name],
            gains=gains(group),
        )
        for name, group in citing.items()
    )
    return tuple(sorted(rows, key=lambda row: (-row.gains.proposed, -row.retrieved, row.id)))


def proposers(candidates: Sequence[Candidate]) -> tuple[ProposerShare, ...]:
    """List the proposers, the busiest first."""
    groups: dict[str, list[Candidate]] = {}
    for each in candidates:
        groups.setdefault(each.proposer, []).append(each)
    rows = (ProposerShare(proposer=name, gains=gains(group)) for name, group in groups.items())
    return tuple(sorted(rows, key=lambda row: (-row.gains.proposed, row.proposer)))


def predictions(records: Records) -> Predictions | None:
    """Sum up the predictions that were scored; none when there are none."""
    scored = [fact for fact in of(records, CandidateAnalyzed) if fact.prediction_held is not None]
    errors = [fact.prediction_error for fact in scored if fact.prediction_error is not None]
    if not errors:
        return None
    held = sum(bool(fact.prediction_held) for fact in scored)
    return Predictions(made=len(scored), held=held, mean_error=statistics.fmean(errors))
