"""Which experiments on the cluster have not come to their end, from the log alone."""

from evolvent.log import Log
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_schemas import (
    ExperimentCompleted,
    ExperimentFailed,
    ExperimentStarted,
    Fact,
    RoundClosed,
    RunFinished,
    RunHalted,
    filter_for,
)

_Measurement = tuple[str, str, str, int]
"""Run, candidate, stage and seed."""
_FACTS = (ExperimentStarted, ExperimentCompleted, ExperimentFailed, RoundClosed, RunFinished, RunHalted)


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
        case RoundClosed(run=run, round=round_):
            _drop(latest, run, round_)
        case RunFinished(run=run) | RunHalted(run=run):
            _drop(latest, run, None)


def _measurement(fact: ExperimentStarted | ExperimentCompleted | ExperimentFailed) -> _Measurement:
    return fact.run, fact.candidate, fact.stage, fact.seed


def _drop(latest: dict[_Measurement, Identity], run: str, round_: str | None) -> None:
    for key in [key for key, each in latest.items() if each.run == run and round_ in {None, each.round}]:
        del latest[key]
