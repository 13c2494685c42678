"""What a round may spend on models, held by every call before it goes out, whichever replica makes it.

The log says what recorded calls have cost. What it cannot say is what is being spent at this moment, by a replica that
still lives or by one that died before it could record anything: for that a call first takes its worst case out of the
round's purse, and puts back what it did not need. A call that may have been paid for without an answer keeps it all.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from pydantic import Field

from evolvent.clock import new_id
from evolvent.errors import BrokenOff, GrantExceeded, Permanent, Transient
from evolvent.shared import Shared
from evolvent_schemas import subjects
from evolvent_schemas.values import Cost, Grant, RoundId, RunId, Value

NOTHING = Cost()


class Allowance(Value):
    """What one round may spend on models, and what the log says it has spent."""

    run: RunId
    round: RoundId
    grant: Grant
    spent: Cost = NOTHING

    @property
    def left(self) -> Grant:
        tokens, usd = self.grant.tokens, self.grant.usd
        return self.grant.model_copy(
            update={
                "tokens": None if tokens is None else max(0, tokens - self.spent.tokens),
                "usd": None if usd is None else max(0.0, usd - self.spent.usd),
            }
        )

    @property
    def limited(self) -> bool:
        return self.grant.tokens is not None or self.grant.usd is not None

    def after(self, cost: Cost) -> "Allowance":
        """Count what a further call has cost."""
        return self.model_copy(update={"spent": self.spent + cost})


class Purse(Value):
    """The shared state of one round."""

    spent: Cost = NOTHING
    held: dict[str, Cost] = Field(default_factory=dict)
    """Worst cases of calls in flight, and of those that may have been paid for without an answer."""

    @property
    def total(self) -> Cost:
        return sum(self.held.values(), self.spent)

    def hold(self, call: str, most: Cost, allowance: Allowance) -> "Purse":
        """Take the worst case of a call out of the purse.

        Raises:
            GrantExceeded: not so much is left.
        """
        others = {name: cost for name, cost in self.held.items() if name != call}
        spent = _larger(self.spent, allowance.spent)  # a purse that was lost begins with what the log says
        total = sum(others.values(), spent) + most
        grant = allowance.grant
        if grant.tokens is not None and total.tokens > grant.tokens:
            raise GrantExceeded(_too_much(allowance, f"{grant.tokens - total.tokens + most.tokens} tokens", most))
        if grant.usd is not None and total.usd > grant.usd:
            raise GrantExceeded(_too_much(allowance, f"{grant.usd - total.usd + most.usd:.6f} USD", most))
        return Purse(spent=spent, held={**others, call: most})

    def settle(self, call: str, cost: Cost) -> "Purse":
        """Put back what a call did not need; a call that is not held was settled before."""
        if call not in self.held:
            return self
        others = {name: held for name, held in self.held.items() if name != call}
        return Purse(spent=self.spent + cost, held=others)


def _larger(one: Cost, other: Cost) -> Cost:
    return Cost(usd=max(one.usd, other.usd), tokens=max(one.tokens, other.tokens))


def _too_much(allowance: Allowance, left: str, most: Cost) -> str:
    return (
        f"round {allowance.round} has {left} left beside its calls in flight and those that were cut off, and this one "
        f"may take {most.tokens} tokens, {most.usd:.6f} USD: raise the budget or lower EVOLVENT_MODEL_MAX_TOKENS"
    )


@dataclass
class Held:
    """A call that holds its worst case; `cost` is what it came to."""

    cost: Cost = field(default=NOTHING)


@dataclass(frozen=True)
class Purses:
    """The purses of all rounds."""

    shared: Shared

    @contextlib.asynccontextmanager
    async def held(self, allowance: Allowance, most: Cost) -> AsyncIterator[Held]:
        """Hold the worst case of a call while it is made, and settle for what it cost.

        Raises:
            GrantExceeded: the round's grant does not cover it beside all other calls.
        """
        held = Held()
        if not allowance.limited:
            yield held
            return
        subject, call = subjects.purse(allowance.run, allowance.round), new_id(12)
        await self._change(subject, lambda purse: purse.hold(call, most, allowance))
        try:
            yield held
        except BrokenOff:
            raise  # it may have been paid for: what it held stays held
        except (Transient, Permanent):
            with contextlib.suppress(Transient):
                await self._change(subject, lambda purse: purse.settle(call, NOTHING))
            raise
        with contextlib.suppress(Transient):  # the answer is worth more than the change: it stays held then
            await self._change(subject, lambda purse: purse.settle(call, held.cost))

    async def _change(self, subject: str, step: Callable[[Purse], Purse]) -> None:
        def encoded(stored: bytes | None) -> tuple[bytes, None]:
            purse = Purse.model_validate_json(stored) if stored else Purse()
            return step(purse).model_dump_json().encode(), None

        await self.shared.change(subject, encoded)
