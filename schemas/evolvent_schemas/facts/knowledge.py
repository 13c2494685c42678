"""Human papers and the run's own lessons."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind, UserToken
from evolvent_schemas.values import Digest, Retrieved, RoundId


class KnowledgeIngested(Fact):
    """A batch of knowledge items became available to every later retrieval."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "cognition"
    wakes: ClassVar = ("conductor",)
    key_fields: ClassVar = ("batch",)

    type: Literal["knowledge.ingested"] = "knowledge.ingested"
    batch: UserToken
    """`task` for the items of the task folder."""
    items: Digest
    """Artifact: canonical JSON list of knowledge items."""
    count: int = Field(ge=0)


class KnowledgeRetrieved(Fact):
    """Items and lessons that the next design is given."""

    kind: ClassVar = Kind.OBSERVATION
    publisher: ClassVar = "cognition"
    wakes: ClassVar = ("researcher",)
    key_fields: ClassVar = ("round",)

    type: Literal["knowledge.retrieved"] = "knowledge.retrieved"
    round: RoundId
    queries: tuple[str, ...]
    found: tuple[Retrieved, ...]
    documents: int = Field(ge=0)
    """How many items and lessons were searched."""
