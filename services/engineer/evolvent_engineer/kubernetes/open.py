"""Which experiments on the cluster have not come to their end, from the log alone."""

from evolvent.log import Log
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_schemas import (
    CandidateAnalyzed,
    ExperimentCompleted,
    ExperimentFailed,
    ExperimentStarted,
    Fact,
    RunFinished,
    RunHalted,
    filter_for,
)

_Measurement = tuple[str, str, str, int]
"""Run, candidate, stage and seed."""
_FACTS = (ExperimentStarted, ExperimentCompleted, ExperimentFailed, CandidateAnalyzed, RunFinished, RunHalted)


async def unfinished(log: Log) -> set[Identity]:
    """Name the last try of every measurement that began on a cluster and has no result.

    One that failed by the infrastructure is among them: whoever recorded that may have died before the next try.
    """
    latest: dict[_Measurement, Identity] = {}
    async for record in log.follow([filter_for(cls) for cls in _FACTS], until=await log.end()):
        _step(latest, record.fact)
    return set(latest.values())


def _step(latest: dict[_Measurement, Identity], fact: Fact) -> None:
    match fact:
        case ExperimentStarted(backend="kubernetes"):
            found = Identity(fact.run, fact.candidate, fact.stage, fact.seed, fact.attempt)
            known = latest.get(_measurement(fact), found)
            latest[_measurement(fact)] = max(found, known)
        case ExperimentCompleted():
            latest.pop(_measurement(fact), None)
        case ExperimentFailed(blame=blame) if blame != "infrastructure":
            latest.pop(_measurement(fact), None)
        case CandidateAnalyzed(run=run, candidate=candidate):
            _drop(latest, run, candidate)
        case RunFinished(run=run) | RunHalted(run=run):
            _drop(latest, run, None)


def _measurement(fact: ExperimentStarted | ExperimentCompleted | ExperimentFailed) -> _Measurement:
    return fact.run, fact.candidate, fact.stage, fact.seed


def _drop(latest: dict[_Measurement, Identity], run: str, candidate: str | None) -> None:
    for key in [key for key in latest if key[0] == run and candidate in {None, key[1]}]:
        del latest[key]
