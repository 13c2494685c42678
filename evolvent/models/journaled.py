"""A question to a model as a journaled effect, and the one repair turn that an unusable answer gets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from evolvent.journal import Answer, EffectFailed, Effects
from evolvent.models.answers import ModelAnswer, ModelRequest, UnusableAnswer
from evolvent.models.purse import Allowance
from evolvent_schemas.values import Cost, ModelCall

T = TypeVar("T")
Purpose = Literal["design", "lesson", "judge"]
SHOWN = 500
"""Characters of a complaint that travel in a fact."""


class Completes(Protocol):
    """Whoever answers: `evolvent.models.access.Access`."""

    async def complete(self, request: ModelRequest, *, allowance: Allowance) -> ModelAnswer: ...


@dataclass(frozen=True)
class Asker:
    """Asks on behalf of one handler and one round."""

    effects: Effects
    models: Completes
    allowance: Allowance
    tries: int | None = None
    """From this delivery on a passing fault counts as a lasting one; none to wait for the answer, however long."""

    async def ask(self, name: str, request: ModelRequest) -> ModelAnswer:
        """Return the recorded answer to a request, or ask, record and return it; unusable ones are recorded alike.

        Raises:
            CodeChanged, EffectFailed, Halted, Transient, Unrecorded: see `Effects.once`.
        """

        async def call() -> Answer:
            answer = await self.models.complete(request, allowance=self.allowance)
            return Answer(answer.model_dump(mode="json"), answer.cost)

        content = request.model_dump(mode="json")
        return ModelAnswer.model_validate(await self.effects.once(name, content, call, tries=self.tries))

    def after(self, cost: Cost) -> "Asker":
        """Go on with what is left."""
        return Asker(self.effects, self.models, self.allowance.after(cost), self.tries)


@dataclass(frozen=True)
class Exchange(Generic[T]):
    """A question with at most one repair turn."""

    value: T | None
    """What was read from the answer; none when neither answer could be used."""
    fault: str
    """Why not; empty when one could."""
    calls: tuple[ModelCall, ...]

    @property
    def cost(self) -> Cost:
        return total(self.calls)


@dataclass(frozen=True)
class Form(Generic[T]):
    """How one kind of answer is read, and asked for again."""

    purpose: Purpose
    read: Callable[[ModelAnswer], T]
    """Raises `UnusableAnswer`."""
    repair: Callable[[ModelRequest, ModelAnswer, UnusableAnswer], ModelRequest]

    def attempt(self, answer: ModelAnswer) -> tuple[T | None, UnusableAnswer | None]:
        try:
            return self.read(answer), None
        except UnusableAnswer as fault:
            return None, fault


async def converse(asker: Asker, name: str, request: ModelRequest, form: Form[T]) -> Exchange[T]:
    """Ask, and ask once more with the complaint when the answer cannot be used.

    A repair turn that cannot be made (the grant, the endpoint) leaves the first complaint to stand.

    Raises:
        EffectFailed: the first call failed for good.
    """
    answer = await asker.ask(name, request)
    value, fault = form.attempt(answer)
    calls: tuple[ModelCall, ...] = (_call(request, form.purpose, answer, fault),)
    if fault is None:
        return Exchange(value, "", calls)
    try:
        again = form.repair(request, answer, fault)
        second = await asker.after(answer.cost).ask(f"{name}-repair", again)
    except EffectFailed as error:
        return Exchange(None, f"{_short(fault)}; no repair turn: {error}", calls)
    mended, complaint = form.attempt(second)
    calls = (*calls, _call(again, "repair", second, complaint))
    return Exchange(mended, "" if complaint is None else _short(complaint), calls)


def _call(
    request: ModelRequest, purpose: Literal["design", "repair", "lesson", "judge"], answer: ModelAnswer, fault: object
) -> ModelCall:
    ended = "used" if fault is None else "unusable"
    outcome = ended if answer.outcome == "answered" else answer.outcome
    return ModelCall(model=request.model, purpose=purpose, outcome=outcome, cost=answer.cost)


def _short(fault: UnusableAnswer) -> str:
    text = f"{fault.outcome}: {fault}" if fault.outcome != "garbled" else str(fault)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def total(calls: tuple[ModelCall, ...]) -> Cost:
    """Add up what calls have cost."""
    return sum((call.cost for call in calls), Cost())
