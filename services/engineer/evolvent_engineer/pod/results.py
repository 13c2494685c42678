"""The result of one experiment, signed in its pod and judged by the engineer.

Each try of an experiment has an Ed25519 key of its own, derived from a secret that all engineers share, the
experiment's id and the digests of what it runs. The pod gets the private half of that one key and can sign nothing
else; every engineer, restarted or second, can derive it again, and nothing has to be stored.
"""

import hashlib
import hmac
from dataclasses import asdict, dataclass
from typing import Literal

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from evolvent_engineer.backend import Completed, Failed, Outcome
from evolvent_schemas.values import Digest, canonical

SIGNATURE = "Evolvent-Signature"
_CONTEXT = b"evolvent result 1\n"
"""Before everything signed, so that no signature means anything elsewhere."""
_COMPLETED = TypeAdapter(Completed)
_FAILED = TypeAdapter(Failed)
Fault = Literal["unreadable", "replayed", "forged"]


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


def sign(slip: Slip, outcome: Outcome, key: str) -> tuple[bytes, dict[str, str]]:
    """Write a result: its body and its headers."""
    kind = "completed" if isinstance(outcome, Completed) else "failed"
    body = canonical({"slip": asdict(slip), kind: asdict(outcome)})
    return body, {SIGNATURE: _private(key).sign(_CONTEXT + body).hex()}


def verify(slip: Slip, body: bytes, headers: dict[str, str], key: str) -> Outcome:
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
    return _outcome(content)


def _content(body: bytes) -> dict[str, object]:
    try:
        content = orjson.loads(body)
    except ValueError as error:
        raise NotAResult("unreadable") from error
    if not isinstance(content, dict):
        raise NotAResult("unreadable")
    return content


def _outcome(content: dict[str, object]) -> Outcome:
    try:
        if "completed" in content:
            return _COMPLETED.validate_python(content["completed"])
        return _FAILED.validate_python(content.get("failed"))
    except ValidationError as error:
        raise NotAResult("unreadable") from error
