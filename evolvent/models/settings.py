"""The settings of a model endpoint, from the environment; the only place that a key comes from."""

from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent.errors import Refused

MODEL_KEYS = ("EVOLVENT_MODEL_API_KEY", "OPENAI_API_KEY")
"""The environment variables that hold a key."""
_SHORTEST_SECRET = 8
"""Words such as `none` or `ollama` stand in for a key where an endpoint needs none; they are not secret."""


class ModelSettings(BaseSettings):
    """Each field is read from `EVOLVENT_MODEL_<FIELD>`; the address and the key also from OpenAI's own variables."""

    model_config = SettingsConfigDict(
        env_prefix="EVOLVENT_MODEL_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    base_url: str = Field(
        default="https://api.openai.com/v1",
        validation_alias=AliasChoices("EVOLVENT_MODEL_BASE_URL", "OPENAI_BASE_URL"),
    )
    """Where the endpoint's `/chat/completions` lies; mostly ends in `/v1`."""
    api_key: SecretStr = Field(default=SecretStr(""), validation_alias=AliasChoices(*MODEL_KEYS))
    """Never written to a request value, a fact, a log or an error. Any word will do where the endpoint needs none."""
    name: str = ""
    """The model; several, separated by commas, are chosen between by a bandit."""
    max_tokens: int = Field(default=16_384, ge=1)
    """Most tokens of one answer."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    total_seconds: float = Field(default=600, gt=0)
    """A call that lasts longer is given up."""
    idle_seconds: float = Field(default=120, gt=0)
    """A call that sends nothing for so long is given up; reasoning models are silent for a minute and more."""
    connect_seconds: float = Field(default=10, gt=0)
    answer_bytes: int = Field(default=1 << 20, ge=1024)
    """A longer answer is hung up on."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Calls in flight at once."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    prices: Path | None = None
    """TOML file with prices that override the shipped ones."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http or https address")
        if parts.username or parts.password:
            raise ValueError("must not hold a name or password; put the key into EVOLVENT_MODEL_API_KEY")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _sendable(cls, key: SecretStr) -> SecretStr:
        word = key.get_secret_value().strip()
        if not (word.isascii() and word.isprintable() and " " not in word):
            raise ValueError("must be one word of printable ASCII")
        return SecretStr(word)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; `overrides` win.

        Raises:
            Refused: a setting is invalid; the message names it and never shows its value.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_input=False))
            raise Refused(f"the model settings are invalid: {faults}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The models, in the order given."""
        return tuple(name for part in self.name.split(",") if (name := part.strip()))

    def check(self) -> None:
        """Make sure that a model can be called at all.

        Raises:
            Refused: the key or the model is missing.
        """
        if not self.api_key.get_secret_value():
            raise Refused(
                f"no key for the model at {self.base_url}: set EVOLVENT_MODEL_API_KEY (or OPENAI_API_KEY); "
                "any word will do for an endpoint that needs none"
            )
        if not self.names:
            raise Refused(f"no model is named for {self.base_url}: set EVOLVENT_MODEL_NAME")

    def redact(self, text: str) -> str:
        """Take the key out of a text that came from outside."""
        key = self.api_key.get_secret_value()
        return text.replace(key, "[redacted]") if len(key) >= _SHORTEST_SECRET else text
