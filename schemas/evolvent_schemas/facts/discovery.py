"""Claims, what became of them, and the approvals and seals beside the ring."""

from typing import ClassVar, Literal

from pydantic import Field

from evolvent_schemas.fact import Fact, Kind, UserToken
from evolvent_schemas.values import CandidateId, Digest, Finite, StageName


class DiscoveryClaimed(Fact):
    """A candidate beat every earlier one on the search proxy. Not yet a discovery."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "analyzer"
    key_fields: ClassVar = ("candidate",)

    type: Literal["discovery.claimed"] = "discovery.claimed"
    candidate: CandidateId
    stage: StageName
    score: Finite
    previous: Finite | None = None
    """The best score before it."""


class _Verdict(Fact):
    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "analyzer"
    key_fields: ClassVar = ("candidate",)

    candidate: CandidateId
    stage: StageName
    seeds: int = Field(ge=2)
    difference: Finite
    """Mean paired difference from the baseline, in the task's unit."""
    low: Finite
    high: Finite
    p_value: float = Field(ge=0, le=1)


class DiscoveryConfirmed(_Verdict):
    """Fresh seeds cleared the pre-registered test."""

    type: Literal["discovery.confirmed"] = "discovery.confirmed"


class DiscoveryRefuted(_Verdict):
    """Fresh seeds did not."""

    type: Literal["discovery.refuted"] = "discovery.refuted"


class _Approval(Fact):
    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "conductor"
    key_fields: ClassVar = ("request",)

    request: UserToken


class ApprovalRequested(_Approval):
    """A person must agree before this is spent."""

    type: Literal["approval.requested"] = "approval.requested"
    question: str


class ApprovalGranted(_Approval):
    """A person agreed."""

    type: Literal["approval.granted"] = "approval.granted"
    user: str


class ApprovalDenied(_Approval):
    """A person did not."""

    type: Literal["approval.denied"] = "approval.denied"
    user: str


class LogSealed(Fact):
    """The notary signed the Merkle tree of the run so far (RFC 6962)."""

    kind: ClassVar = Kind.DECISION
    publisher: ClassVar = "notary"
    key_fields: ClassVar = ("size",)

    type: Literal["log.sealed"] = "log.sealed"
    size: int = Field(ge=1)
    """Number of facts under the root."""
    root: Digest
    note: str
    """Signed note (C2SP)."""
