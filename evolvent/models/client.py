"""Models as the roles see them: one question, one whole answer, never beyond the grant."""

import asyncio
from types import TracebackType
from typing import Self

import openai
from pydantic import JsonValue

from evolvent import clock
from evolvent.errors import EvolventError, GrantExceeded, Transient
from evolvent.models.answers import Message, ModelAnswer, ModelRequest, Outcome, PromptRef, UnusableAnswer
from evolvent.models.endpoint import Endpoint, Reply
from evolvent.models.limiter import Limiter, LocalLimiter
from evolvent.models.parsing import json_object
from evolvent.models.prices import load_prices, price_of
from evolvent.models.settings import ModelSettings
from evolvent.models.tokens import estimate, prompt_tokens, worst_case
from evolvent_schemas.values import Cost, Grant, NonNegative, Value, sha256

_WHOLE = frozenset({"stop", "end_turn", "stop_sequence", "eos"})
"""Finish reasons of an answer that the model ended itself: OpenAI's own and those of other servers."""
UNLIMITED = Grant(attempts=1, compute_seconds=0)


class Probe(Value):
    """What `evolvent doctor` finds out about a model with one small call."""

    model: str
    base_url: str
    reachable: bool
    """The endpoint answered the call, if only to refuse it."""
    listed: bool | None
    """Whether `/models` lists it; none when the endpoint has no such list."""
    structured: bool | None
    """Whether the endpoint takes a JSON Schema; none when the call failed."""
    priced: bool
    latency_seconds: NonNegative
    problem: str = ""
    """Why it cannot be used, and what to do; empty when it can."""


class Models:
    """Calls the models of one endpoint. Use as `async with`; safe for any number of tasks."""

    def __init__(self, settings: ModelSettings, *, limiter: Limiter | None = None) -> None:
        """Check the settings; nothing is sent yet.

        Raises:
            Refused: the key or the model is missing, or the prices file is unusable.
        """
        settings.check()
        self.settings = settings
        self.prices = load_prices(settings.prices)
        self._endpoint = Endpoint(settings)
        self._limiter = limiter or LocalLimiter(settings.requests_per_minute, settings.tokens_per_minute)
        self._gate = asyncio.Semaphore(settings.concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._endpoint.client.close()

    async def complete(self, request: ModelRequest, *, grant: Grant) -> ModelAnswer:
        """Ask once. `grant` is what is left of the round's; unless it covers the worst case nothing is sent.

        Whether a whole answer is usable is a value in it (`outcome`), so that it is recorded and paid for like any.

        Raises:
            GrantExceeded: the prompt and the longest answer could cost more than is left, or there is no price.
            Transient: try the same request again after `delay` seconds.
            Permanent: the endpoint refuses it for good; the message names the model, the address and the next step.
        """
        most = self.check(request, grant)
        async with self._gate:
            await self._limiter.slot(request.model, most.tokens)
            started = clock.monotonic()
            reply = await self._endpoint.ask(request)
            return self._answer(request, reply, clock.monotonic() - started)

    def check(self, request: ModelRequest, grant: Grant) -> Cost:
        """Return the most that a request can cost; without a price the money is 0.

        Raises:
            GrantExceeded: that, or their price, is more than the grant.
        """
        tokens = worst_case(request)
        if grant.tokens is not None and tokens > grant.tokens:
            raise GrantExceeded(
                f"a call of {request.model!r} may take {tokens} tokens and {grant.tokens} are left: "
                "raise the tokens of the budget or lower EVOLVENT_MODEL_MAX_TOKENS"
            )
        usd = self._usd(request.model, prompt_tokens(request), request.max_tokens)
        if grant.usd is not None:
            _check_money(request, usd, grant.usd)
        return Cost(tokens=tokens, usd=usd or 0.0)

    def _usd(self, model: str, tokens_in: int, tokens_out: int) -> float | None:
        price = price_of(self.prices, model)
        return price.usd(tokens_in, tokens_out) if price else None

    def _answer(self, request: ModelRequest, reply: Reply, wall_seconds: float) -> ModelAnswer:
        usage = reply.usage
        tokens_in = usage.prompt_tokens if usage else prompt_tokens(request)
        tokens_out = (
            usage.completion_tokens if usage else estimate(reply.text + reply.refusal + "".join(reply.thoughts))
        )
        text = self.settings.redact(reply.text or reply.refusal)
        outcome, complaint, parsed = _judged(request, reply, text)
        return ModelAnswer(
            text=text,
            parsed=parsed,
            outcome=outcome,
            complaint=complaint,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            usage="reported" if usage else "estimated",
            usd=self._usd(request.model, tokens_in, tokens_out),
            model=reply.model or request.model,
            finish_reason=reply.finish_reason or "oversized",
            wall_seconds=wall_seconds,
        )

    async def probe(self, model: str | None = None) -> Probe:
        """Ask a model for one word. Costs a few dozen tokens; every failure is in the answer."""
        name = model or self.settings.names[0]
        started = clock.monotonic()
        fault: EvolventError | None = None
        try:
            await self.complete(_probe_request(name), grant=UNLIMITED)
        except EvolventError as error:
            fault = error
        latency = clock.monotonic() - started
        return Probe(
            model=name,
            base_url=self.settings.base_url,
            reachable=not isinstance(fault, Transient),
            listed=await self._listed(name),
            structured=None if fault else "response_format" not in self._endpoint.lacks(name),
            priced=price_of(self.prices, name) is not None,
            latency_seconds=latency,
            problem=str(fault or ""),
        )

    async def _listed(self, model: str) -> bool | None:
        try:
            async with asyncio.timeout(self.settings.connect_seconds):
                page = await self._endpoint.client.models.list()
                return any(entry.id == model for entry in page.data)
        except (openai.APIError, TimeoutError, ValueError, TypeError, AttributeError):
            return None  # many endpoints have no list, and some answer with another shape


def _check_money(request: ModelRequest, usd: float | None, left: float) -> None:
    if usd is None:
        raise GrantExceeded(
            f"the budget is in money and {request.model!r} has no price: give one in the file named by "
            "EVOLVENT_MODEL_PRICES, or drop the money from the budget"
        )
    if usd > left:
        raise GrantExceeded(
            f"a call of {request.model!r} may cost {usd:.6f} USD and {left:.6f} are left: "
            "raise the money of the budget or lower EVOLVENT_MODEL_MAX_TOKENS"
        )


def _judged(request: ModelRequest, reply: Reply, text: str) -> tuple[Outcome, str, dict[str, JsonValue] | None]:
    """Name the outcome of a whole answer, with the complaint a repair turn repeats and the object it holds."""
    if (spoiled := _spoiled(request, reply)) is not None:
        return *spoiled, None
    if request.answer_schema is None:
        return "answered", "", None
    try:
        return "answered", "", json_object(text)
    except UnusableAnswer as error:
        return "garbled", str(error), None


def _spoiled(request: ModelRequest, reply: Reply) -> tuple[Outcome, str] | None:
    reason = reply.finish_reason.lower()
    if reply.oversized:
        return "oversized", f"the answer exceeded {reply.limit} bytes and was hung up on; answer much shorter"
    if reply.refusal:
        return "refused", "the request was declined; it is harmless engineering research, so answer it as asked"
    if reason == "content_filter":
        return "filtered", "the answer was withheld by a content filter; word it differently"
    if reason not in _WHOLE:
        return "cut", f"the answer was cut off ({reason}) at {request.max_tokens} tokens at most; answer shorter"
    if not reply.text.strip():
        return "empty", "the answer was empty; answer as asked"
    return None


_WORD: dict[str, JsonValue] = {
    "type": "object",
    "properties": {"word": {"type": "string"}},
    "required": ["word"],
    "additionalProperties": False,
}
_QUESTION = 'Answer with the JSON object {"word": "ready"}.'


def _probe_request(model: str) -> ModelRequest:
    return ModelRequest(
        model=model,
        messages=(Message(role="user", text=_QUESTION),),
        max_tokens=64,
        answer_schema=_WORD,
        prompt=PromptRef(name="probe", version="1", digest=sha256(_QUESTION.encode())),
    )
