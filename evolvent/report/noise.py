"""Seed noise: pooled deviation and the interval of a mean."""

import math
from collections.abc import Sequence

from evolvent.report.values import Candidate, Estimate, Noise


def within(t: float, degrees: int) -> float:
    """Give the probability that Student's t lies within ±t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4 (whole degrees of freedom).
    """
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(1 + odd, degrees - 2, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * (total if degrees > 1 else 0.0))


def quantile(degrees: int, level: float = 0.95) -> float:
    """Find the t within whose ± Student's t lies with this probability."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, degrees) < level else (low, middle)
    return (low + high) / 2


def estimate(candidate: Candidate | None) -> Estimate | None:
    """Put the 95 % interval of the mean around a measured score."""
    if candidate is None or candidate.score is None:
        return None
    name, score, seeds, spread = candidate.candidate, candidate.score, candidate.seeds, candidate.spread
    if spread is None or seeds < 2:
        return Estimate(candidate=name, score=score, seeds=seeds)
    reach = quantile(seeds - 1) * spread / math.sqrt(seeds)
    return Estimate(candidate=name, score=score, seeds=seeds, spread=spread, low=score - reach, high=score + reach)


def pooled(candidates: Sequence[Candidate]) -> Noise | None:
    """Pool the variance over seeds of every candidate that has one."""
    known = [(each.seeds - 1, each.spread) for each in candidates if each.spread is not None and each.seeds > 1]
    degrees = sum(count for count, _ in known)
    if not degrees:
        return None
    variance = sum(count * spread * spread for count, spread in known) / degrees
    return Noise(deviation=math.sqrt(variance), degrees=degrees, candidates=len(known))
