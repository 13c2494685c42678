"""Choose between models by what their proposals gained, with UCB1; the state is given, nothing is remembered here."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from evolvent_schemas.values import NonNegative, Value

EXPLORATION = math.sqrt(2)
"""Source: Auer, Cesa-Bianchi, Fischer, Finite-time analysis of the multiarmed bandit problem (2002), UCB1."""


class Arm(Value):
    """What one model was asked for and what came of it."""

    started: int = Field(default=0, ge=0)
    """Times it was chosen. Counted at the choice, so that open rounds count and a call that fails counts as well."""
    gain: NonNegative = 0.0
    """Sum of the improvements over the parent, in units of fitness; a proposal that is no better adds nothing."""
    usd: NonNegative = 0.0


Arms = Mapping[str, Arm]


def started(arms: Arms, model: str) -> dict[str, Arm]:
    """Count a choice."""
    arm = arms.get(model, Arm())
    return {**arms, model: arm.model_copy(update={"started": arm.started + 1})}


def finished(arms: Arms, model: str, *, improvement: float, usd: float = 0.0) -> dict[str, Arm]:
    """Book what a choice came to; a loss, or an improvement that is no finite number, books the price alone."""
    arm = arms.get(model, Arm())
    gain = improvement if math.isfinite(improvement) and improvement > 0 else 0.0
    return {**arms, model: arm.model_copy(update={"gain": arm.gain + gain, "usd": arm.usd + usd})}


def choose(arms: Arms, *, per: Literal["usd", "call"] = "usd", exploration: float = EXPLORATION) -> str:
    """Choose the model with the highest upper bound on its share of the best rate of improvement.

    Whoever was never started comes first, in the order of `arms`; on equal bounds the earlier one wins. Rates are
    divided by the best one, so that the bound does not depend on the unit of the score. When nothing was paid for
    some started model, rates are per call.

    Raises:
        ValueError: there is no model.
    """
    if not arms:
        raise ValueError("no model to choose from")
    for model, arm in arms.items():
        if arm.started == 0:
            return model
    rates = _rates(arms, per)
    best = max(rates.values()) or 1.0
    total = math.log(sum(arm.started for arm in arms.values()))
    bounds = {model: rates[model] / best + exploration * math.sqrt(total / arms[model].started) for model in arms}
    return max(bounds, key=bounds.__getitem__)


def _rates(arms: Arms, per: Literal["usd", "call"]) -> dict[str, float]:
    if per == "usd" and all(arm.usd > 0 for arm in arms.values()):
        return {model: arm.gain / arm.usd for model, arm in arms.items()}
    return {model: arm.gain / arm.started for model, arm in arms.items()}
