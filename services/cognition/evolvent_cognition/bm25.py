"""Sparse BM25 vectors, made offline; the engines add the inverse document frequency."""

from functools import cache

from qdrant_edge import Bm25, Bm25Config

from evolvent_cognition.index import SparseVector

AVERAGE_WORDS = 100.0
"""Length, in words, at which a chunk's weights are neither raised nor lowered; 60 found 1 % less."""


@cache
def _model() -> Bm25:
    return Bm25(Bm25Config(language="english", avg_len=AVERAGE_WORDS, ascii_folding=True))


def encode_document(text: str) -> SparseVector:
    """Weigh the stemmed words of a text by their saturated frequency. Source: Robertson and Zaragoza 2009, eq. 3.15."""
    vector = _model().embed_document(text)
    return SparseVector(list(vector.indices), list(vector.values))


def encode_query(text: str) -> SparseVector:
    """Give every stemmed word of a query the weight 1; a query of stop words alone is empty."""
    vector = _model().embed_query(text)
    return SparseVector(list(vector.indices), list(vector.values))
