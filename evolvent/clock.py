"""The only module that reads the clock and draws ids and randomness; replay depends on it."""

import random
import secrets
import time
from datetime import UTC, datetime

from evolvent_schemas import Fact

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def now() -> datetime:
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that never goes back."""
    return time.monotonic()


def new_id(length: int = 6) -> str:
    """Draw an id that is legal as a NATS token, a DNS name and a Kubernetes label; it starts with a letter."""
    return secrets.choice(_ALPHABET[:24]) + "".join(secrets.choice(_ALPHABET) for _ in range(length - 1))


def new_seed() -> int:
    return secrets.randbits(31)


def jitter(delay: float) -> float:
    """Spread a delay over half to one and a half times itself, so that replicas do not retry in step."""
    return delay * (0.5 + random.random())  # noqa: S311 - never part of a decision


def seeded(seed: int, cause: Fact, purpose: str = "") -> random.Random:
    """Make the random stream of a decision.

    It depends on the run's seed and on what the cause is about, not on ids or times, so that two runs with one seed
    draw the same numbers.
    """
    return random.Random(f"{seed}/{cause.type}/{cause.key}/{purpose}")  # noqa: S311 - reproducible on purpose
