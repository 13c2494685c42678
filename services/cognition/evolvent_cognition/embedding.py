"""The port of embedding models."""

from collections.abc import Sequence
from typing import Protocol


class Embedder(Protocol):
    """Turns texts into dense vectors that are compared by cosine."""

    @property
    def name(self) -> str:
        """Short name of the model, legal in a file name; another name is another index."""

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed the texts in their order, each to `dimensions` numbers.

        Raises:
            Transient: the model is busy or away.
            Permanent: the model refuses the texts.
        """
