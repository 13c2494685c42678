"""The port of the vector store, in the words of qdrant-client, and the choice among its adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from evolvent.errors import Refused

DENSE = "dense"
SPARSE = "bm25"
"""Names of the vectors of a point; dense ones are there when the index was opened with dimensions."""

EXACT_BELOW = 20_000
"""Chunks below which dense search is exact: HNSW's defaults found 61 % of the true neighbours of random vectors."""


class Payload(TypedDict):
    """What is stored with every chunk: the whole document and whether this is its last chunk."""

    id: str
    kind: Literal["item", "lesson"]
    title: str
    text: str
    code: str
    ordinal: int
    last: Literal[0, 1]
    """A number, because qdrant-edge 0.9.0 matches `True` as 1 and finds no boolean."""


@dataclass(frozen=True)
class SparseVector:
    """Weights of the words of a text, by the word's hash."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True)
class PointStruct:
    """One chunk with its vectors. The id is a UUID."""

    id: str
    payload: Payload
    sparse: SparseVector
    dense: list[float] | None = None


@dataclass(frozen=True)
class ScoredPoint:
    """A chunk that was found; more is better."""

    id: str
    score: float
    payload: Payload


@dataclass(frozen=True)
class QueryRequest:
    """Nearest neighbours of one vector among the points whose ordinal is at most `up_to`.

    A list of numbers is compared with the dense vectors by cosine, a sparse one with the words by BM25, its inverse
    document frequencies counted over those same points, so that later documents change no score.
    """

    vector: list[float] | SparseVector
    up_to: int
    limit: int

    @property
    def using(self) -> str:
        return SPARSE if isinstance(self.vector, SparseVector) else DENSE


class LiteratureIndex(Protocol):
    """Stores points and finds the nearest ones. A cache: whatever it holds can be made again from the documents."""

    async def upsert(self, points: Sequence[PointStruct]) -> None:
        """Store points durably; one that is already there is replaced."""

    async def query_batch(self, requests: Sequence[QueryRequest]) -> list[list[ScoredPoint]]:
        """Answer the requests in their order, best point first."""

    async def count(self) -> int:
        """Count the whole documents, which are those whose last chunk is stored."""

    async def clear(self) -> None:
        """Forget every point."""

    async def close(self) -> None:
        """Release the store; afterwards only opening it again helps."""


async def open_index(
    location: str, *, run: str, dimensions: int | None = None, make: str = "", key: str | None = None
) -> LiteratureIndex:
    """Open the index of a run: `memory`, the URL of a Qdrant server, or a folder for the embedded engine.

    `make` names whatever else decides the vectors, above all the embedding model: an index of another make is left
    alone and an empty one opened beside it, to be filled from the documents.

    Raises:
        Refused: the folder is in use by another process, or cannot be read.
        Unreachable: the server does not answer.
    """
    name = "-".join(part for part in ("evolvent", run, make, str(dimensions or "sparse")) if part)
    if location == "memory":
        from evolvent_cognition.qdrant import open_memory

        return await open_memory(name, dimensions)
    if location.startswith(("http://", "https://")):
        from evolvent_cognition.qdrant import open_server

        return await open_server(location, name, dimensions, key)
    if "://" in location:
        raise Refused(f"{location!r} is no place for an index: give memory, an http(s) URL or a folder")
    from evolvent_cognition.edge import open_edge

    return open_edge(Path(location), name, dimensions)
