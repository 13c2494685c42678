"""One OpenAI-compatible endpoint: sends a call, collects its stream, and knows which features it lacks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
import openai
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from evolvent.errors import BrokenOff, EvolventError, Permanent
from evolvent.models.answers import ModelRequest
from evolvent.models.faults import DEFAULT_DELAY, classified, lacking
from evolvent.models.settings import ModelSettings
from evolvent_schemas.values import canonical

WIRE_FACTOR = 100
"""Bytes on the wire for a byte of answer at most: a chunk of 4 bytes travels in some 250."""


def _or_none(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


class _Read(BaseModel):
    """The client builds its objects without checking them; what is read of them is checked here."""

    model_config = ConfigDict(from_attributes=True)


class Usage(_Read):
    prompt_tokens: int = Field(ge=0, le=10**9)
    completion_tokens: int = Field(ge=0, le=10**9)


class _Delta(_Read):
    content: str | None = None
    reasoning_content: str | None = None
    """Thoughts, where a server shows them (DeepSeek, vLLM); they are paid for and count as size, never as text."""
    refusal: str | None = None


class _Choice(_Read):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Chunk(_Read):
    """What is read of a chunk. Source: OpenAI's reference, the chat completion chunk object."""

    model: str | None = None
    choices: list[_Choice] = []
    usage: Annotated[Usage | None, WrapValidator(_or_none)] = None


@dataclass
class Reply:
    """What a whole stream said."""

    limit: int
    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes so far, of all three."""
    finish_reason: str = ""
    model: str = ""
    usage: Usage | None = None

    @property
    def oversized(self) -> bool:
        return self.size > self.limit

    @property
    def text(self) -> str:
        return _joined(self.texts)

    @property
    def refusal(self) -> str:
        return _joined(self.refusals)

    def add(self, chunk: _Chunk) -> None:
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices[:1]:
            self.finish_reason = choice.finish_reason or self.finish_reason
            self._append(self.texts, choice.delta.content)
            self._append(self.refusals, choice.delta.refusal)
            self._append(self.thoughts, choice.delta.reasoning_content)

    def _append(self, parts: list[str], piece: str | None) -> None:
        if piece:
            parts.append(piece)
            self.size += len(piece.encode("utf-8", "replace"))


def _joined(parts: list[str]) -> str:
    """Join pieces and mend surrogate pairs that were cut in two between them; a lone half becomes U+FFFD."""
    return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Capped(httpx2.AsyncByteStream):
    """A body that ends in an error once it is longer than any answer can be."""

    def __init__(self, body: httpx2.AsyncByteStream, limit: int) -> None:
        self._body, self._left = body, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            self._left -= len(part)
            if self._left < 0:
                raise ValueError("the body is larger than any answer")
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()


class Endpoint:
    """The client and what it learned about the endpoint's models while it lives."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.client = openai.AsyncOpenAI(
            api_key=settings.api_key.get_secret_value(),
            base_url=settings.base_url,
            max_retries=0,
            timeout=openai.Timeout(settings.idle_seconds, connect=settings.connect_seconds),
            default_headers={"Accept-Encoding": "identity"},  # so that the cap counts what is unpacked
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [self._cap]}),
        )
        self._lacks: dict[str, frozenset[str]] = {}

    async def _cap(self, response: httpx2.Response) -> None:
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Capped(response.stream, WIRE_FACTOR * self.settings.answer_bytes)

    def lacks(self, model: str) -> frozenset[str]:
        """Name the optional features that the endpoint was found to lack for a model."""
        return self._lacks.get(model, frozenset())

    def where(self, model: str) -> str:
        return f"the model {model!r} at {self.settings.base_url}"

    async def ask(self, request: ModelRequest) -> Reply:
        """Make one call; a feature that the endpoint refuses is left out from then on.

        Raises:
            Transient: the endpoint is overloaded, slow, down or broke off; nothing of the answer is kept.
            Permanent: the endpoint refuses the call for good.
        """
        while True:
            body = call(request, self.lacks(request.model))
            try:
                return await self._timed(body)
            except openai.APIStatusError as error:
                missing = lacking(error, body)
                if missing is None:
                    raise self.classified(error, request.model) from None
                self._lacks[request.model] = self.lacks(request.model) | {missing}
            except openai.APIError as error:
                raise self.classified(error, request.model) from None

    def classified(self, error: openai.APIError, model: str) -> EvolventError:
        """Classify an error and take the key out of what the endpoint said."""
        fault = classified(error, self.where(model))
        fault.args = (self.settings.redact(str(fault)),)
        return fault

    async def _timed(self, body: dict[str, Any]) -> Reply:
        where = self.where(body["model"])
        try:
            async with asyncio.timeout(self.settings.total_seconds):
                return await self._stream(body, where)
        except TimeoutError:
            limits = f"{self.settings.total_seconds:g} s in all, {self.settings.idle_seconds:g} s of silence"
            raise BrokenOff(f"{where} was too slow ({limits})", delay=DEFAULT_DELAY) from None
        except (ValueError, RecursionError) as error:
            what = type(error).__name__
            raise BrokenOff(
                f"{where} sent no stream of chunks, or no end of it ({what})", delay=DEFAULT_DELAY
            ) from None

    async def _stream(self, body: dict[str, Any], where: str) -> Reply:
        reply = Reply(limit=self.settings.answer_bytes)
        async with await self.client.chat.completions.create(**body) as stream:
            _check_type(stream.response.headers.get("content-type", ""), where)
            loop, idle = asyncio.get_running_loop(), self.settings.idle_seconds
            async with asyncio.timeout(idle) as silence:
                async for chunk in stream:
                    reply.add(_Chunk.model_validate(chunk))
                    silence.reschedule(loop.time() + idle)
                    if reply.oversized:
                        return reply
        if not reply.finish_reason:
            broke_off = f"{where} broke off after {reply.size} bytes without a finish reason"
            raise BrokenOff(broke_off, delay=DEFAULT_DELAY)
        return reply


def _check_type(content_type: str, where: str) -> None:
    if content_type.startswith(("text/html", "application/json")):
        raise Permanent(
            f"{where} answered with {content_type} where a stream was asked for: "
            "check EVOLVENT_MODEL_BASE_URL, which mostly ends in /v1"
        )


def call(request: ModelRequest, lacks: frozenset[str]) -> dict[str, Any]:
    """Spell a request in the endpoint's words, without the features it lacks."""
    limit = "max_completion_tokens" if "max_tokens" in lacks else "max_tokens"
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": message.role, "content": message.text} for message in request.messages],
        "stream": True,
        limit: request.max_tokens,
    }
    body |= {key: value for key in ("temperature", "seed") if (value := getattr(request, key)) is not None}
    if "stream_options" not in lacks:
        body["stream_options"] = {"include_usage": True}
    if request.answer_schema is None:
        return body
    if "response_format" in lacks:
        body["messages"].append({"role": "system", "content": _in_words(request)})
        return body
    schema = {"name": request.prompt.name, "strict": True, "schema": request.answer_schema}
    return body | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _in_words(request: ModelRequest) -> str:
    schema = canonical(request.answer_schema).decode()
    return f"Answer with exactly one JSON object and nothing else. It must satisfy this JSON Schema:\n{schema}"
