"""The embedded vector store: a qdrant-edge shard in a folder, held by one process."""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import qdrant_edge as qdrant

from evolvent.errors import Refused
from evolvent_cognition.index import DENSE, EXACT_BELOW, SPARSE, Payload, PointStruct, QueryRequest, ScoredPoint
from evolvent_cognition.index import SparseVector as Sparse

_LAST = qdrant.Filter(must=[qdrant.FieldCondition("last", match=qdrant.MatchValue(value=1))])


class EdgeIndex:
    """A shard; every call runs in a thread, because the engine blocks."""

    def __init__(self, folder: Path, config: qdrant.EdgeConfig, lock: int) -> None:
        self._folder = folder
        self._config = config
        self._lock = lock
        self._shard = _open_shard(folder, config)

    async def upsert(self, points: Sequence[PointStruct]) -> None:
        await asyncio.to_thread(self._upsert, points)

    async def query_batch(self, requests: Sequence[QueryRequest]) -> list[list[ScoredPoint]]:
        return await asyncio.to_thread(self._query_batch, requests)

    async def count(self) -> int:
        return await asyncio.to_thread(self._shard.count, qdrant.CountRequest(exact=True, filter=_LAST))

    async def clear(self) -> None:
        await asyncio.to_thread(self._clear)

    async def close(self) -> None:
        await asyncio.to_thread(self._shard.close)
        os.close(self._lock)

    def _upsert(self, points: Sequence[PointStruct]) -> None:
        self._shard.update(qdrant.UpdateOperation.upsert_points([_point(point) for point in points]))
        self._build_graph()

    def _query_batch(self, requests: Sequence[QueryRequest]) -> list[list[ScoredPoint]]:
        exact = self._shard.info().points_count < EXACT_BELOW
        batch = qdrant.QueryBatchRequest([_request(request, exact=exact) for request in requests])
        return [[_scored(point) for point in found] for found in self._shard.query_batch(batch)]

    def _build_graph(self) -> None:
        # Searched exactly until it pays, then rebuilt whenever half of the points stand outside the graph.
        info = self._shard.info()
        if info.points_count >= EXACT_BELOW and info.indexed_vectors_count * 2 < info.points_count:
            self._shard.optimize()

    def _clear(self) -> None:
        self._shard.close()
        shutil.rmtree(self._folder)
        self._shard = _open_shard(self._folder, self._config)


def open_edge(folder: Path, name: str, dimensions: int | None) -> EdgeIndex:
    """Open the shard `name` in a folder, making both where they are missing.

    Raises:
        Refused: another index is open there, or the shard cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return EdgeIndex(folder / name, _config(dimensions), lock)
    except BlockingIOError as error:
        os.close(lock)
        raise Refused(f"{folder}: another process has this index open; give each process its own folder") from error
    except Refused:
        os.close(lock)
        raise


def _config(dimensions: int | None) -> qdrant.EdgeConfig:
    sparse = {SPARSE: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf)}
    if dimensions is None:
        return qdrant.EdgeConfig(sparse_vectors=sparse)
    dense = {DENSE: qdrant.EdgeVectorParams(size=dimensions, distance=qdrant.Distance.Cosine)}
    return qdrant.EdgeConfig(vectors=dense, sparse_vectors=sparse)


def _open_shard(folder: Path, config: qdrant.EdgeConfig) -> qdrant.EdgeShard:
    """Load a shard, or make it beside its place first, so that a kill never leaves half of one."""
    if not folder.exists():
        draft = folder.with_name(folder.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        _create(draft, config)
        draft.rename(folder)
    try:
        return qdrant.EdgeShard.load(str(folder), config)
    except Exception as error:  # the engine raises nothing narrower
        raise Refused(f"{folder}: {error}; delete the folder, it is made again from the log") from error


def _create(folder: Path, config: qdrant.EdgeConfig) -> None:
    shard = qdrant.EdgeShard.create(str(folder), config)
    for field in ("ordinal", "last"):
        # Without it every search reads the payload of every point: six times slower at 10,000.
        shard.update(qdrant.UpdateOperation.create_field_index(field, qdrant.PayloadSchemaType.Integer))
    shard.close()


def _point(point: PointStruct) -> qdrant.Point:
    vectors: dict[str, list[float] | qdrant.SparseVector | list[list[float]]] = {SPARSE: _sparse(point.sparse)}
    if point.dense is not None:
        vectors[DENSE] = point.dense
    return qdrant.Point(point.id, vectors, dict(point.payload))


def _request(request: QueryRequest, *, exact: bool) -> qdrant.QueryRequest:
    visible = qdrant.Filter(must=[qdrant.FieldCondition("ordinal", range=qdrant.RangeFloat(lte=request.up_to))])
    vector = _sparse(request.vector) if isinstance(request.vector, Sparse) else request.vector
    return qdrant.QueryRequest(
        limit=request.limit,
        query=qdrant.Query.Nearest(vector, using=request.using),
        filter=visible,
        with_payload=True,
        params=_params(request, visible, exact=exact),
    )


def _params(request: QueryRequest, visible: qdrant.Filter, *, exact: bool) -> qdrant.SearchParams:
    if request.using == SPARSE:
        return qdrant.SearchParams(exact=True, idf=qdrant.IdfParams(corpus=visible))
    return qdrant.SearchParams(exact=exact)


def _sparse(vector: Sparse) -> qdrant.SparseVector:
    return qdrant.SparseVector(vector.indices, vector.values)


def _scored(point: qdrant.ScoredPoint) -> ScoredPoint:
    return ScoredPoint(str(point.id), point.score, cast("Payload", point.payload))
