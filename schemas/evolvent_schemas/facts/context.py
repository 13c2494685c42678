"""What a designer is shown of the population."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind
from evolvent_schemas.values import Choice, RoundId


class ContextSampled(Fact):
    """A sampler chose the parents and references of a round.

    The weights of those not chosen are not stored: they follow from the log up to `cause`, and `why` recomputes them.
    """

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "researcher"
    wakes: ClassVar = ("cognition",)
    key_fields: ClassVar = ("round",)

    type: Literal["context.sampled"] = "context.sampled"
    round: RoundId
    parents: tuple[Choice, ...]
    references: tuple[Choice, ...] = ()
    sampler: str
    seed: int = Field(ge=0)
    pool: int = Field(ge=0)
    """How many measured candidates there were to choose from."""
