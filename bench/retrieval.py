"""What filing and finding cost in each adapter of the index, at one thousand and ten thousand chunks.

Compares the embedded engine with qdrant-client's engine in memory, on the same synthetic documents (words drawn by
Zipf's law from 20,000, one chunk each) with BM25 and 384 random dense dimensions, through the same library. The server
adapter is left out: no server binary comes from a package registry, and timing a stand-in would say nothing.
"""

import argparse
import asyncio
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evolvent_cognition.documents import Document
from evolvent_cognition.library import Library

WORDS = 20_000
QUERIES = 30
UP_TO = 10**9


class RandomEmbedder:
    """Unit vectors at random: the cost of a search does not depend on what they mean."""

    name = "random"
    dimensions = 384

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = self._random.standard_normal((len(texts), self.dimensions))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()


def texts(count: int, words: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    drawn = np.minimum(random.zipf(1.2, (count, words)), WORDS)
    return [" ".join(f"w{number}" for number in row) for row in drawn]


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(location: str, chunks: int, *, hybrid: bool) -> dict[str, float]:
    """File `chunks` documents and ask 30 questions; insert times are CPU seconds, query times wall milliseconds."""
    library = await Library.open(location, run="bench", embedder=RandomEmbedder() if hybrid else None)
    documents = [
        Document(id=f"d{n}", kind="item", title="", text=text, ordinal=n) for n, text in enumerate(texts(chunks, 80, 2))
    ]
    start = cpu()
    await library.add(documents)
    filed = cpu() - start
    took = [await asked(library, query) for query in texts(QUERIES, 8, 3)]
    await library.close()
    quartiles = statistics.quantiles(took, n=4)
    return {
        "insert_cpu_s": round(filed, 3),
        "query_p50_ms": round(quartiles[1], 2),
        "query_iqr_ms": round(quartiles[2] - quartiles[0], 2),
        "query_max_ms": round(max(took), 2),
    }


async def asked(library: Library, query: str) -> float:
    start = time.perf_counter()
    await library.search([query], up_to=UP_TO)
    return (time.perf_counter() - start) * 1000


async def compare(chunks: int, *, hybrid: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        edge = await measure(str(Path(folder) / "edge"), chunks, hybrid=hybrid)
    memory = await measure("memory", chunks, hybrid=hybrid)
    ratio = {key: round(memory[key] / edge[key], 1) for key in ("insert_cpu_s", "query_p50_ms")}
    mode = "hybrid" if hybrid else "bm25"
    return {"chunks": chunks, "mode": mode, "edge": edge, "memory": memory, "memory_over_edge": ratio}


def machine() -> dict[str, object]:
    return {"system": platform.platform(), "python": platform.python_version(), "machine": platform.machine()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="1,000 chunks in both modes, 10,000 by BM25 in edge only")
    options = parser.parse_args()
    rows = [await compare(1_000, hybrid=hybrid) for hybrid in (False, True)]
    if not options.quick:
        rows += [await compare(10_000, hybrid=hybrid) for hybrid in (False, True)]
    else:
        with tempfile.TemporaryDirectory() as folder:
            edge = await measure(folder, 10_000, hybrid=False)
        rows.append({"chunks": 10_000, "mode": "bm25", "edge": edge})
    report = {"queries": QUERIES, "machine": machine(), "rows": rows}
    print(json.dumps(report) if options.json else json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
