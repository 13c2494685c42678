"""The base of every fact: its kind, its key, and with them its identity."""

import uuid
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints

from evolvent_schemas import subjects
from evolvent_schemas.values import ID_PATTERN, RunId, canonical

ROOT = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""The cause of facts that nothing on the log caused (the URL name space of RFC 9562, appendix C)."""


class Kind(StrEnum):
    """What an append does when the subject already holds a fact."""

    DECISION = "decision"
    """Same id: done; same id with another body: diverged; another id: a permanent error."""
    OBSERVATION = "observation"
    """The first stands and whoever comes later goes on with it."""
    CLAIM = "claim"
    """The first cause stands and whoever comes later goes on with it."""


Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
UserToken = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


class Fact(BaseModel):
    """Something that happened, written once and never changed.

    A subclass names its wire `type`, its `kind`, the role that publishes it and the fields that are its key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    kind: ClassVar[Kind]
    publisher: ClassVar[str]
    """The only role that may publish it; `user` is outside input, `*` every role."""
    wakes: ClassVar[tuple[str, ...]] = ()
    """The roles whose durable consumers deliver it."""
    key_fields: ClassVar[tuple[str, ...]] = ()

    type: str
    run: RunId

    @property
    def key(self) -> str:
        return ".".join(str(getattr(self, name)) for name in self.key_fields)

    @property
    def subject(self) -> str:
        return subjects.fact(self.run, self.type, self.key)

    def body(self) -> bytes:
        """Encode as canonical JSON; equal facts have equal bytes."""
        return canonical(self.model_dump(mode="json"))


def fact_id(cause: uuid.UUID, subject: str) -> uuid.UUID:
    """Derive the id of a fact from what caused it and where it stands.

    The subject is part of it because JetStream drops the same Nats-Msg-Id on another subject as a duplicate.
    """
    return uuid.uuid5(cause, subject)
