"""Scores a point by its distance from a hidden one, at no cost."""

import math
from collections.abc import Mapping

from evolvent.evaluation import Candidate, array
from evolvent_schemas.values import Scalar

HIDDEN = (0.3, 0.7)


def evaluate(candidate: Candidate, settings: Mapping[str, Scalar], seed: int) -> dict[str, float]:
    x, y = array(candidate.call("point"), shape=(2,)).tolist()
    return {"closeness": -math.dist((x, y), HIDDEN)}
