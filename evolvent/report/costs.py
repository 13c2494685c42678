"""What a run has cost: as it was booked, by role, by model."""

from collections.abc import Iterable, Sequence

from evolvent.log import Record
from evolvent.report.candidates import Records, ended, of
from evolvent.report.values import Costs, ModelCost, RoleCost
from evolvent_schemas import EffectRecorded, Fact
from evolvent_schemas.values import Cost


def costs(records: Records, booked: Cost) -> Costs:
    """Tell what was spent. What the roles recorded and what was booked may differ; both are told."""
    effects = of(records, EffectRecorded)
    return Costs(
        booked=booked,
        roles=tuple(_roles(records)),
        models=tuple(_models(effects)),
        elsewhere=sum(effect.artifact is not None for effect in effects),
    )


def _roles(records: Records) -> Iterable[RoleCost]:
    """List the roles by name; outside input is `user`."""
    groups: dict[str, list[Record[Fact]]] = {}
    for record in records:
        groups.setdefault(record.source.rpartition("/")[2], []).append(record)
    return (_role(name, groups[name]) for name in sorted(groups))


def _role(name: str, records: Records) -> RoleCost:
    effects = of(records, EffectRecorded)
    experiments = ended(records)
    return RoleCost(
        role=name,
        facts=len(records) - len(effects),
        effects=len(effects),
        failed_effects=sum(effect.outcome == "failed" for effect in effects),
        repeated=sum(effect.delivery - 1 for effect in effects),
        tokens=sum(effect.cost.tokens for effect in effects),
        usd=sum(effect.cost.usd for effect in effects),
        call_seconds=sum(effect.wall_seconds for effect in effects),
        compute_seconds=sum(experiment.wall_seconds for experiment in experiments),
    )


def _models(effects: Sequence[EffectRecorded]) -> Iterable[ModelCost]:
    """List the models by name; an effect is a model's when its answer says which served it."""
    groups: dict[str, list[EffectRecorded]] = {}
    for effect in effects:
        if isinstance(effect.answer, dict) and isinstance(model := effect.answer.get("model"), str):
            groups.setdefault(model, []).append(effect)
    return (_model(name, groups[name]) for name in sorted(groups))


def _model(name: str, effects: Sequence[EffectRecorded]) -> ModelCost:
    answers = [effect.answer for effect in effects]
    return ModelCost(
        model=name,
        calls=len(effects),
        unusable=sum(answer.get("outcome") != "answered" for answer in answers),
        unpriced=sum(answer.get("usd") is None for answer in answers),
        tokens_in=sum(_whole(answer.get("tokens_in")) for answer in answers),
        tokens_out=sum(_whole(answer.get("tokens_out")) for answer in answers),
        usd=sum(effect.cost.usd for effect in effects),
        wall_seconds=sum(effect.wall_seconds for effect in effects),
    )


def _whole(value: object) -> int:
    """Read a count from an answer, which is plain JSON of any shape."""
    return value if isinstance(value, int) and value >= 0 else 0
