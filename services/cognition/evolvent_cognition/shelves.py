"""The libraries of this process, one per run, filled from the log as far as a decision may see."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from evolvent.artifacts import Artifacts
from evolvent.errors import Refused
from evolvent_cognition.documents import Document
from evolvent_cognition.embedding import Embedder
from evolvent_cognition.library import Library
from evolvent_cognition.memory import Memory
from evolvent_cognition.settings import CognitionSettings
from evolvent_schemas.values import KnowledgeItem

REPLICAS = 64
"""Processes of one home that can have an index of their own."""


@dataclass
class Shelves:
    """Opens, fills and closes libraries; whatever they hold can be made again from the log."""

    root: Path
    """Holds one folder for each process that has an index."""
    settings: CognitionSettings
    _folder: Path | None = None
    _embedder: Embedder | None = None
    _libraries: dict[str, Library] = field(default_factory=dict)
    _filled: dict[str, int] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold a folder of this process's own for as long as the block lasts.

        Raises:
            Refused: there are too many processes, or the folder cannot be made.
        """
        self._folder, descriptor = own_folder(self.root)
        self._embedder = await self.settings.embedder()
        try:
            yield
        finally:
            for library in self._libraries.values():
                await library.close()
            self._libraries.clear()
            os.close(descriptor)

    async def filled(self, run: str, memory: Memory, artifacts: Artifacts) -> Library:
        """Give a run's library with at least the documents that this state knows."""
        async with self._lock:
            if run not in self._libraries:
                assert self._folder is not None, "the shelves are open while cognition runs"
                where = self.settings.qdrant_url or str(self._folder / run)
                self._libraries[run] = await Library.open(
                    where, run=run, embedder=self._embedder, key=self.settings.server_key
                )
                self._filled[run] = await self._libraries[run].count()
            library = self._libraries[run]
            if self._filled[run] < memory.documents:
                await library.add(await _documents(memory, self._filled[run], artifacts))
                self._filled[run] = memory.documents
            return library


async def _documents(memory: Memory, start: int, artifacts: Artifacts) -> list[Document]:
    """Make the documents from ordinal `start` on, in order."""
    found = [document for document in await known_items(memory, artifacts) if document.ordinal >= start]
    for ordinal in range(start, memory.documents):
        if (taught := memory.lessons.get(ordinal)) is not None:
            name = f"{taught.candidate}-{taught.number}"
            found.append(Document.of_lesson(taught.lesson, id=name, ordinal=ordinal))
    return sorted(found, key=lambda document: document.ordinal)


async def known_items(memory: Memory, artifacts: Artifacts) -> list[Document]:
    """Read every item that was ingested, in order."""
    found = []
    for batch in memory.batches:
        for place, item in enumerate(orjson.loads(await artifacts.get(batch.items))):
            found.append(Document.of_item(KnowledgeItem.model_validate(item), batch.first + place))
    return found


def own_folder(root: Path) -> tuple[Path, int]:
    """Take a folder for this process, the same as last time where it is free; the descriptor holds it.

    Raises:
        Refused: there are too many processes, or the folder cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    for number in range(REPLICAS):
        descriptor = os.open(root / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        return root / str(number), descriptor
    raise Refused(f"{root} already has the indexes of {REPLICAS} running replicas")
