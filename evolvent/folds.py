"""Persistent folds: what a role makes of a run's facts, one version per fact, sharing structure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import core_schema
from rpds import HashTrieMap

from evolvent.log import Record
from evolvent_schemas import Fact, RunFinished, RunHalted, filter_for

S = TypeVar("S", bound="State")


@dataclass(frozen=True)
class _Persistent:
    """Tells pydantic how to read and write a `HashTrieMap` of these keys and values."""

    keys: Any
    values: Any

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        plain = handler.generate_schema(dict[self.keys, self.values])  # type: ignore[name-defined]
        return core_schema.union_schema(
            [
                core_schema.is_instance_schema(HashTrieMap),
                core_schema.no_info_after_validator_function(HashTrieMap, plain),
            ],
            serialization=core_schema.plain_serializer_function_ser_schema(dict, return_schema=plain),
        )


if TYPE_CHECKING:
    Map = HashTrieMap
else:

    class Map:
        """`Map[K, V]`: a persistent map; an insert makes a new one that shares almost everything with the old."""

        def __class_getitem__(cls, item: tuple[Any, Any]) -> Any:
            return Annotated[HashTrieMap, _Persistent(*item)]


def empty() -> Any:
    """Make an empty `Map`; for `Field(default_factory=empty)`."""
    return HashTrieMap()


class State(BaseModel):
    """A frozen folded state; called without arguments it is the state of an empty run."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def evolve(self, **changes: object) -> Self:
        """Make the next version with these fields changed."""
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Fold(Generic[S]):
    """What a role makes of a run's facts."""

    name: str
    version: int
    """Raise it when `step` or the state changes; older snapshots are then ignored."""
    state: type[S]
    facts: tuple[type[Fact], ...]
    step: Callable[[S, Record[Fact]], S]
    """Fold one fact. Pure and total."""

    def filters(self, run: str) -> list[str]:
        """Spell the subjects of a run that the fold reads; the end of the run is always among them."""
        classes: tuple[type[Fact], ...] = (*self.facts, RunHalted, RunFinished)
        return sorted({filter_for(cls, run) for cls in classes})

    def reads(self, fact: Fact) -> bool:
        return isinstance(fact, (*self.facts, RunHalted, RunFinished))

    def advance(self, state: S, record: Record[Fact]) -> S:
        return self.step(state, record) if isinstance(record.fact, self.facts) else state
