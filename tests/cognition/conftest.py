"""The index behind each of its adapters; the server is Qdrant's REST interface over the client's own engine."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from qdrant_client import QdrantClient, models

from evolvent.knowledge import load
from evolvent_cognition.documents import Document

KNOWLEDGE = Path(__file__).parents[2] / "tasks" / "linear_attention" / "knowledge"


class HashEmbedder:
    """Sums a fixed random direction for every word: deterministic, offline, and not the ranking of BM25."""

    name = "hash"
    dimensions = 32

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) for word in text.lower().split() or [""]]
        return sum(np.random.default_rng(seed).standard_normal(self.dimensions) for seed in seeds).tolist()


class RestQdrant:
    """The endpoints of Qdrant's REST interface that the index uses, answered by qdrant-client's engine in memory.

    No server binary comes from a package registry. The wire is real HTTP with the official client's own models on
    both ends; what it cannot show is how a real server behaves under load, over its limits, or while it recovers.
    """

    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")
        self.fault = 0
        """Status that every request is answered with, unless 0."""
        self.indexed: set[str] = set()
        self.app = web.Application(middlewares=[self._faults], client_max_size=32 * 2**20)
        at = "/collections/{name}"
        self.app.add_routes(
            [
                web.get(f"{at}/exists", self._exists),
                web.put(at, self._create),
                web.delete(at, self._delete),
                web.put(f"{at}/index", self._index),
                web.put(f"{at}/points", self._upsert),
                web.post(f"{at}/points/count", self._count),
                web.post(f"{at}/points/query/batch", self._query),
            ]
        )

    @web.middleware
    async def _faults(self, request, handler):
        if self.fault:
            return web.json_response({"status": {"error": "injected"}, "time": 0}, status=self.fault)
        return web.json_response({"result": await handler(request), "status": "ok", "time": 0})

    async def _exists(self, request):
        return {"exists": self.engine.collection_exists(request.match_info["name"])}

    async def _create(self, request):
        body = models.CreateCollection.model_validate(await request.json())
        return self.engine.create_collection(
            request.match_info["name"], vectors_config=body.vectors, sparse_vectors_config=body.sparse_vectors
        )

    async def _delete(self, request):
        return self.engine.delete_collection(request.match_info["name"])

    async def _index(self, request):
        self.indexed.add(models.CreateFieldIndex.model_validate(await request.json()).field_name)
        return {"operation_id": 0, "status": "completed"}

    async def _upsert(self, request):
        points = models.PointsList.model_validate(await request.json()).points
        self.engine.upsert(request.match_info["name"], points)
        return {"operation_id": 0, "status": "completed"}

    async def _count(self, request):
        body = models.CountRequest.model_validate(await request.json())
        return self.engine.count(request.match_info["name"], count_filter=body.filter).model_dump()

    async def _query(self, request):
        body = models.QueryRequestBatch.model_validate(await request.json())
        searches = [search.model_copy(update={"params": self._idf(search.params)}) for search in body.searches]
        answers = self.engine.query_batch_points(request.match_info["name"], searches)
        return [answer.model_dump(mode="json") for answer in answers]

    def _idf(self, params):
        # The engine in memory warns about every parameter but this one.
        return models.SearchParams(idf=params.idf) if params and params.idf else None


@pytest.fixture
async def rest() -> AsyncIterator[tuple[RestQdrant, str]]:
    qdrant = RestQdrant()
    async with TestServer(qdrant.app) as server:
        yield qdrant, str(server.make_url("/")).rstrip("/")


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture(scope="session")
def shipped() -> list[Document]:
    return [Document.of_item(item, ordinal) for ordinal, item in enumerate(load(KNOWLEDGE))]


@pytest.fixture(params=["edge", "server", "memory"])
def location(request, tmp_path: Path) -> str:
    if request.param == "server":
        return request.getfixturevalue("rest")[1]
    return "memory" if request.param == "memory" else str(tmp_path / "index")
