"""Embeddings from an OpenAI-compatible endpoint. Apart from the port, because importing the client takes a second."""

from collections.abc import Sequence

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError

from evolvent.errors import EvolventError, Permanent, Refused, Transient, innermost

BATCH = 128
"""Texts per request; several servers refuse more."""


class EndpointEmbedder:
    """A model behind `POST <url>/embeddings`."""

    def __init__(self, client: AsyncOpenAI, model: str, dimensions: int) -> None:
        self._client = client
        self._model = model
        self.dimensions = dimensions

    @property
    def name(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self._model.lower())

    @classmethod
    async def connect(cls, url: str, *, model: str, key: str = "none") -> "EndpointEmbedder":
        """Ask the endpoint for one vector, to learn its length.

        Raises:
            Transient: the endpoint is busy or away.
            Permanent: the endpoint refuses the key or does not have the model.
        """
        # Retries are JetStream's alone.
        embedder = cls(AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=60), model, 0)
        try:
            embedder.dimensions = len((await embedder._ask(["length"]))[0])
        except EvolventError:
            await embedder.close()
            raise
        return embedder

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = [
            vector for start in range(0, len(texts), BATCH) for vector in await self._ask(texts[start : start + BATCH])
        ]
        if any(len(vector) != self.dimensions for vector in vectors):
            raise Permanent(f"{self._model} changed the length of its vectors from {self.dimensions}; restart")
        return vectors

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        try:
            # Empty texts are an error at most endpoints.
            answer = await self._client.embeddings.create(
                model=self._model, input=[text or " " for text in texts], encoding_format="float"
            )
        except APIStatusError as error:
            if error.status_code < 500 and error.status_code not in {408, 409, 429}:
                raise Permanent(f"{self._model}: {error}") from error
            raise Transient(f"{self._model}: {error}", delay=5) from error
        except APIConnectionError as error:
            where = f"{self._model} at {self._client.base_url}"
            raise Transient(f"{where} cannot be reached or hung up: {innermost(error)}", delay=5) from error
        except OpenAIError as error:
            raise Refused(f"{self._model}: {error}") from error
        rows = sorted(answer.data, key=lambda row: row.index)
        if len(rows) != len(texts):
            raise Transient(f"{self._model}: asked for {len(texts)} vectors and got {len(rows)}")
        return [row.embedding for row in rows]
