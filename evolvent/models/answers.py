"""What a model is asked and what came back, as frozen values."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationError

from evolvent.errors import Permanent
from evolvent_schemas.values import Cost, Digest, NonNegative, Value, canonical, sha256

Outcome = Literal["answered", "refused", "empty", "cut", "filtered", "oversized", "garbled"]
"""The one named outcome of every whole answer. Only `answered` may be used; the rest allow one repair turn."""
Shape = TypeVar("Shape", bound=BaseModel)


class UnusableAnswer(Permanent):
    """A model answered, and what it said cannot be used. The message is what a repair turn tells the model."""

    def __init__(self, message: str, *, outcome: Outcome = "garbled") -> None:
        super().__init__(message)
        self.outcome = outcome


class Message(Value):
    role: Literal["system", "user", "assistant"]
    text: str


class PromptRef(Value):
    """Which template a request was written with."""

    name: str
    version: str
    """The version of a shipped template; `task` when the task folder overrides it."""
    digest: Digest
    """SHA-256 of the template's text."""


class ModelRequest(Value):
    """Everything that decides an answer and nothing else: no key, no address."""

    model: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    """Most tokens of the answer, reasoning included; part of the worst case that a grant must cover."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """None leaves it to the endpoint; some models refuse any other value."""
    seed: int | None = None
    answer_schema: dict[str, JsonValue] | None = None
    """JSON Schema of the wanted answer; none when free text is wanted."""
    prompt: PromptRef

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON: what an effect is recorded under."""
        return sha256(canonical(self.model_dump(mode="json")))


class ModelAnswer(Value):
    """A whole answer. An answer that broke off on the way is an error and never one of these."""

    text: str
    parsed: dict[str, JsonValue] | None = None
    """The JSON object that was asked for; none for free text and for every outcome but `answered`."""
    outcome: Outcome
    complaint: str = ""
    """What was wrong with it, worded for the model; empty when it was answered."""
    tokens_in: int = Field(ge=0)
    tokens_out: int = Field(ge=0)
    usage: Literal["reported", "estimated"]
    """Whether the endpoint counted the tokens or `tokens.estimate` did."""
    usd: NonNegative | None
    """None when the model has no price."""
    model: str
    """The model that served the answer, by the endpoint's own word."""
    finish_reason: str
    wall_seconds: NonNegative

    @property
    def cost(self) -> Cost:
        return Cost(usd=self.usd or 0.0, tokens=self.tokens_in + self.tokens_out, wall_seconds=self.wall_seconds)


def whole(answer: ModelAnswer) -> str:
    """Take the text of an answer.

    Raises:
        UnusableAnswer: it was refused, cut, filtered, empty, oversized or garbled.
    """
    if answer.outcome != "answered":
        raise UnusableAnswer(answer.complaint, outcome=answer.outcome)
    return answer.text


def read(answer: ModelAnswer, shape: type[Shape]) -> Shape:
    """Read the JSON object of an answer as a model.

    Raises:
        UnusableAnswer: there is none, or it does not fit; the message names every field that is wrong.
    """
    whole(answer)
    return fit(answer.parsed or {}, shape)


def fit(value: Mapping[str, JsonValue], shape: type[Shape]) -> Shape:
    """Validate plain data from a model.

    Raises:
        UnusableAnswer: it does not fit; the message names every field that is wrong.
    """
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the object'}: {fault['msg']}" for fault in error.errors()]
        raise UnusableAnswer("the JSON object does not fit:\n" + "\n".join(f"- {fault}" for fault in faults)) from None


_UNSUPPORTED = frozenset(
    {
        "default",
        "title",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    }
)
"""Keywords that some endpoints refuse in a strict schema; `fit` checks all of them afterwards."""


def wanted(shape: type[BaseModel]) -> dict[str, JsonValue]:
    """Build the JSON Schema that asks a model for `shape`: every field required, no others allowed.

    Source: the rules for strict structured outputs in the reference of OpenAI's chat completions.
    """
    return _strict(shape.model_json_schema())


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    strict = {key: _inner(key, value) for key, value in schema.items() if key not in _UNSUPPORTED}
    if "properties" in strict:
        strict |= {"required": list(strict["properties"]), "additionalProperties": False}
    return strict


def _inner(key: str, value: Any) -> Any:
    if key in {"properties", "$defs"}:
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, dict):
        return _strict(value)
    if key in {"anyOf", "allOf", "prefixItems"}:
        return [_strict(inner) for inner in value]
    return value
