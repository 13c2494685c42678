"""The result of one experiment, signed in its pod and judged by the engineer.

Each try of an experiment has an Ed25519 key of its own, derived from a secret that all engineers share, the
experiment's id and the digests of what it runs. The pod gets the private half of that one key and can sign nothing
else; every engineer, restarted or second, can derive it again, and nothing has to be stored.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from evolvent_engineer.backend import Completed, Failed, Outcome
from evolvent_engineer.candidate import TEXT_LIMIT
from evolvent_schemas.values import Digest, canonical

SIGNATURE = "Evolvent-Signature"
_HEAD = 40
"""Characters before a rank's message that say whose it is."""
_CONTEXT = b"evolvent result 1\n"
"""Before everything signed, so that no signature means anything elsewhere."""
_COMPLETED = TypeAdapter(Completed)
_FAILED = TypeAdapter(Failed)
Fault = Literal["unreadable", "replayed", "forged", "repeated", "of no rank"]


class NotAResult(Exception):
    """A message that is not the result of this experiment, for one named reason."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Slip:
    """What a result is about: one try of one experiment, of exactly these bytes."""

    experiment: str
    bundle: Digest
    program: Digest

    def key(self, secret: str) -> str:
        """Derive the private key, 32 bytes in hexadecimal.

        Source: HMAC-SHA-256 as a pseudo-random function (RFC 5869, section 2.3); any 32 bytes are an Ed25519 key.
        """
        return hmac.new(secret.encode(), _CONTEXT + canonical(asdict(self)), hashlib.sha256).hexdigest()


def public(key: str) -> str:
    """The public half, in hexadecimal."""
    return _private(key).public_key().public_bytes_raw().hex()


def _private(key: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key))


@dataclass(frozen=True, slots=True)
class Told:
    """What one pod of an experiment measured."""

    rank: int
    outcome: Outcome


def sign(slip: Slip, outcome: Outcome, key: str, *, rank: int = 0) -> tuple[bytes, dict[str, str]]:
    """Write the result of one rank: its body and its headers."""
    kind = "completed" if isinstance(outcome, Completed) else "failed"
    body = canonical({"slip": asdict(slip), "rank": rank, kind: asdict(outcome)})
    return body, {SIGNATURE: _private(key).sign(_CONTEXT + body).hex()}


def verify(slip: Slip, body: bytes, headers: dict[str, str], key: str) -> Told:
    """Read a result.

    Raises:
        NotAResult: it is no result at all, another experiment's, or signed by another key.
    """
    content = _content(body)
    if content.get("slip") != asdict(slip):
        raise NotAResult("replayed" if "slip" in content else "unreadable")
    try:
        signature = bytes.fromhex(headers.get(SIGNATURE, ""))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public(key))).verify(signature, _CONTEXT + body)
    except (InvalidSignature, ValueError) as error:
        raise NotAResult("forged") from error
    return Told(_rank(content), _outcome(content))


def _content(body: bytes) -> dict[str, object]:
    try:
        content = orjson.loads(body)
    except ValueError as error:
        raise NotAResult("unreadable") from error
    if not isinstance(content, dict):
        raise NotAResult("unreadable")
    return content


def _rank(content: dict[str, object]) -> int:
    """Read the rank; a result without one is of a pod that was alone."""
    match content.get("rank", 0):
        case int(rank) if not isinstance(rank, bool) and rank >= 0:
            return rank
        case _:
            raise NotAResult("unreadable")


def agreed(told: Sequence[Told]) -> Outcome:
    """Make one outcome of what every rank told, in the order in which they did.

    The first failure counts: those behind it, of ranks that lost a peer, follow from it, and are only told. Without
    any, it is rank 0's outcome.
    """
    failed = [(each.rank, each.outcome) for each in told if isinstance(each.outcome, Failed)]
    if failed and len(told) > 1:
        share = max(TEXT_LIMIT // len(failed) - _HEAD, 0)
        lines = [f"rank {rank} of {len(told)}, {one.reason}: {_ending(one.message, share)}" for rank, one in failed]
        return replace(failed[0][1], message="\n".join(lines)[:TEXT_LIMIT])
    return next(each.outcome for each in told if each.rank == 0)


def _ending(text: str, size: int) -> str:
    return text[max(len(text) - size, 0) :]


def _outcome(content: dict[str, object]) -> Outcome:
    try:
        if "completed" in content:
            return _COMPLETED.validate_python(content["completed"])
        return _FAILED.validate_python(content.get("failed"))
    except ValidationError as error:
        raise NotAResult("unreadable") from error
