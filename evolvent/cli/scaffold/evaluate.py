"""Scores a placement of points by the smallest distance between any two."""

from collections.abc import Mapping

import numpy as np

from evolvent.evaluation import Candidate, Invalid, array
from evolvent_schemas.values import Scalar

POINTS = 12


def evaluate(candidate: Candidate, settings: Mapping[str, Scalar], seed: int) -> dict[str, float]:  # noqa: ARG001
    """Measure one candidate. Whatever it returns is a claim: check it, and compute the score here.

    Raises:
        Invalid: the answer is no placement; the message says what is wrong and by how much.
    """
    points = array(candidate.call("place", POINTS), shape=(POINTS, 2))
    outside = max(float(-points.min()), float(points.max() - 1.0))
    if outside > 0:
        raise Invalid(f"a point lies outside the square by {outside:.3g}")
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    return {"distance": float(apart.min())}
