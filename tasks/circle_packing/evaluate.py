"""Scores a packing of 26 circles in the unit square by the sum of their radii."""

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations

from evolvent.evaluation import Candidate, Invalid, array
from evolvent_schemas.values import Scalar

CIRCLES = 26

Circle = tuple[Fraction, Fraction, Fraction]


def evaluate(candidate: Candidate, settings: Mapping[str, Scalar], seed: int) -> dict[str, float]:  # noqa: ARG001
    """Measure one candidate.

    Raises:
        Invalid: the answer is no packing; the message says what is wrong and by how much.
    """
    circles = array(candidate.call("pack", CIRCLES), shape=(CIRCLES, 3)).tolist()
    check([(Fraction(x), Fraction(y), Fraction(r)) for x, y, r in circles])
    radii = [r for _, _, r in circles]
    return {"sum_of_radii": math.fsum(radii), "smallest_radius": min(radii), "largest_radius": max(radii)}


def check(circles: list[Circle]) -> None:
    """Check the packing without any rounding: float64 numbers are fractions.

    Raises:
        Invalid: a radius is negative or above 1, a circle leaves the square, or two overlap.
    """
    for index, (x, y, r) in enumerate(circles):
        if r < 0:
            raise Invalid(f"circle {index} has a negative radius")
        if r > 1:
            raise Invalid(f"circle {index} is larger than the square")
        if min(x, y, 1 - x, 1 - y) < r:
            excess = float(r - min(x, y, 1 - x, 1 - y))
            raise Invalid(f"circle {index} leaves the square by {excess:.3g}")
    for (i, (x, y, r)), (j, (u, v, s)) in combinations(enumerate(circles), 2):
        if (x - u) ** 2 + (y - v) ** 2 < (r + s) ** 2:
            excess = float(r + s) - math.hypot(float(x - u), float(y - v))
            raise Invalid(f"circles {i} and {j} overlap by about {excess:.3g}")
