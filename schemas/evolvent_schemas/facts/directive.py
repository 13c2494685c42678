"""Outside input: whatever a person or a program asks of a run is one fact."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind, UserToken
from evolvent_schemas.values import Program, RunSettings, UserId, Value


class Start(Value):
    """Begin the run."""

    action: Literal["start"] = "start"
    settings: RunSettings
    baseline: Program
    """The task's own program; it is measured first."""


class Pause(Value):
    """Open no new round."""

    action: Literal["pause"] = "pause"
    reason: str = ""


class Resume(Value):
    """Open the rounds held back."""

    action: Literal["resume"] = "resume"


class Halt(Value):
    """End the run now."""

    action: Literal["halt"] = "halt"
    reason: str = ""


class Steer(Value):
    """Tell the designers something for all rounds to come."""

    action: Literal["steer"] = "steer"
    text: str = Field(min_length=1, max_length=4000)


class Submit(Value):
    """Measure this program in a round of its own."""

    action: Literal["submit"] = "submit"
    program: Program
    note: str = ""


class Approve(Value):
    """Answer an approval request."""

    action: Literal["approve"] = "approve"
    request: UserToken
    granted: bool


Request = Annotated[Start | Pause | Resume | Halt | Steer | Submit | Approve, Field(discriminator="action")]


class DirectiveIssued(Fact):
    """Somebody outside asked something of a run; the conductor answers with a fact."""

    kind: ClassVar = Kind.OBSERVATION
    publisher: ClassVar = "user"
    wakes: ClassVar = ("conductor",)
    key_fields: ClassVar = ("user", "directive")

    type: Literal["directive.issued"] = "directive.issued"
    user: UserId
    directive: UserToken
    """Chosen by the user; issuing it again changes nothing."""
    request: Request


class DirectiveRefused(Fact):
    """The conductor could not do what was asked."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "conductor"
    key_fields: ClassVar = ("user", "directive")

    type: Literal["directive.refused"] = "directive.refused"
    user: UserId
    directive: UserToken
    reason: str
