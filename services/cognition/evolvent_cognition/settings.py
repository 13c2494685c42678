"""What an operator can set of cognition, from the environment (`EVOLVENT_COGNITION_…`)."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent_cognition.embedding import Embedder


class CognitionSettings(BaseSettings):
    """Where the index lies and what makes dense vectors."""

    model_config = SettingsConfigDict(env_prefix="EVOLVENT_COGNITION_", use_attribute_docstrings=True)

    qdrant_url: str | None = None
    """A Qdrant server; without it the embedded engine keeps the index below the home."""
    qdrant_key: SecretStr | None = None
    """Its API key, if it asks for one."""
    embeddings: str | None = None
    """`minilm`, or the base URL of an OpenAI-compatible endpoint; without it words alone are compared (BM25)."""
    embedding_model: str = "text-embedding-3-small"
    """Model to ask the endpoint for."""
    embedding_key: SecretStr = SecretStr("none")
    """Key of the endpoint."""

    @property
    def server_key(self) -> str | None:
        return self.qdrant_key.get_secret_value() if self.qdrant_key else None

    async def embedder(self) -> Embedder | None:
        """Make ready what makes dense vectors.

        Raises:
            Refused: MiniLM is not installed.
            Transient: the endpoint is busy or away.
            Permanent: the endpoint refuses the key or does not have the model.
        """
        if self.embeddings is None:
            return None
        if self.embeddings == "minilm":
            from evolvent_cognition.minilm import MiniLm

            return MiniLm.load()
        from evolvent_cognition.endpoint import EndpointEmbedder

        key = self.embedding_key.get_secret_value()
        return await EndpointEmbedder.connect(self.embeddings, model=self.embedding_model, key=key)
