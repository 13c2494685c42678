"""The vector store through qdrant-client: a server by its URL, or the client's own engine in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from evolvent.errors import Permanent, Transient, Unreachable, innermost
from evolvent_cognition.index import DENSE, EXACT_BELOW, SPARSE, Payload, PointStruct, QueryRequest, ScoredPoint
from evolvent_cognition.index import SparseVector as Sparse

BATCH = 256
"""Points per request to a server; at 384 dimensions about 2 MB of JSON, far below Qdrant's limit of 32 MB."""

_LAST = models.Filter(must=[models.FieldCondition(key="last", match=models.MatchValue(value=1))])


class QdrantIndex:
    """A collection of a client."""

    def __init__(self, client: AsyncQdrantClient, name: str, dimensions: int | None, *, remote: bool) -> None:
        self._client = client
        self._name = name
        self._dimensions = dimensions
        self._remote = remote

    async def upsert(self, points: Sequence[PointStruct]) -> None:
        async with _classified(self._name):
            for start in range(0, len(points), BATCH):
                batch = [_point(point) for point in points[start : start + BATCH]]
                await self._client.upsert(self._name, batch, wait=True)

    async def query_batch(self, requests: Sequence[QueryRequest]) -> list[list[ScoredPoint]]:
        async with _classified(self._name):
            exact = (await self._client.count(self._name)).count < EXACT_BELOW
            batch = [_request(request, exact=exact if self._remote else None) for request in requests]
            answers = await self._client.query_batch_points(self._name, batch)
        return [[_scored(point) for point in answer.points] for answer in answers]

    async def count(self) -> int:
        async with _classified(self._name):
            return (await self._client.count(self._name, count_filter=_LAST)).count

    async def clear(self) -> None:
        async with _classified(self._name):
            await self._client.delete_collection(self._name)
        await self.create()

    async def close(self) -> None:
        await self._client.close()

    async def create(self) -> None:
        """Make the collection where it is missing."""
        async with _classified(self._name):
            if await self._client.collection_exists(self._name):
                return
            await self._client.create_collection(
                self._name, vectors_config=_dense_params(self._dimensions), sparse_vectors_config=_SPARSE_PARAMS
            )
            if self._remote:
                for field, kind in _INDEXED.items():
                    await self._client.create_payload_index(self._name, field, field_schema=kind, wait=True)


_SPARSE_PARAMS = {SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)}
_INDEXED = {"ordinal": models.PayloadSchemaType.INTEGER, "last": models.PayloadSchemaType.INTEGER}


async def open_memory(name: str, dimensions: int | None) -> QdrantIndex:
    """Open an index that lives as long as the process."""
    index = QdrantIndex(AsyncQdrantClient(":memory:"), name, dimensions, remote=False)
    await index.create()
    return index


async def open_server(url: str, name: str, dimensions: int | None, key: str | None = None) -> QdrantIndex:
    """Open a collection of a Qdrant server, making it where it is missing.

    Raises:
        Unreachable: the server does not answer.
    """
    client = AsyncQdrantClient(url=url, api_key=key, timeout=30, check_compatibility=False)
    index = QdrantIndex(client, name, dimensions, remote=True)
    try:
        await index.create()
    except Transient as error:
        await client.close()
        raise Unreachable(f"{url}: {error}; is the Qdrant server up?") from error
    return index


@asynccontextmanager
async def _classified(name: str) -> AsyncIterator[None]:
    try:
        yield
    except UnexpectedResponse as error:
        if error.status_code is not None and 400 <= error.status_code < 500 and error.status_code not in {408, 429}:
            raise Permanent(f"collection {name}: the server refused: {error}") from error
        raise Transient(f"collection {name}: {error}") from error
    except (ResponseHandlingException, ApiException) as error:
        raise Transient(f"collection {name}: {innermost(error)}") from error


def _dense_params(dimensions: int | None) -> dict[str, models.VectorParams]:
    if dimensions is None:
        return {}
    return {DENSE: models.VectorParams(size=dimensions, distance=models.Distance.COSINE)}


def _point(point: PointStruct) -> models.PointStruct:
    vectors: dict[str, list[float] | models.SparseVector] = {SPARSE: _sparse(point.sparse)}
    if point.dense is not None:
        vectors[DENSE] = point.dense
    return models.PointStruct(id=point.id, vector=cast("models.VectorStruct", vectors), payload=dict(point.payload))


def _request(request: QueryRequest, *, exact: bool | None) -> models.QueryRequest:
    visible = models.Filter(must=[models.FieldCondition(key="ordinal", range=models.Range(lte=request.up_to))])
    vector = _sparse(request.vector) if isinstance(request.vector, Sparse) else request.vector
    return models.QueryRequest(
        query=vector,
        using=request.using,
        filter=visible,
        limit=request.limit,
        with_payload=True,
        params=_params(request, visible, exact=exact),
    )


def _params(request: QueryRequest, visible: models.Filter, *, exact: bool | None) -> models.SearchParams | None:
    if request.using == SPARSE:
        return models.SearchParams(idf=models.IdfCorpusParams(corpus=visible))
    # The client's own engine is always exact, and warns when told so.
    return None if exact is None else models.SearchParams(exact=exact)


def _sparse(vector: Sparse) -> models.SparseVector:
    return models.SparseVector(indices=vector.indices, values=vector.values)


def _scored(point: models.ScoredPoint) -> ScoredPoint:
    return ScoredPoint(str(point.id), point.score, cast("Payload", point.payload))
