"""Keep calls within an endpoint's rate limits."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from evolvent import clock


class Limiter(Protocol):
    """Who says when the next call may go out. A bus-backed one shares the limits between replicas."""

    async def slot(self, model: str, tokens: int) -> None:
        """Wait until a call of at most `tokens` tokens may be made. First come, first served."""
        ...


@dataclass
class Bucket:
    """A token bucket that lends: whoever comes too early is told how long to wait, in the order of asking."""

    per_minute: float
    _level: float = field(init=False)
    _at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._level = self.per_minute

    def take(self, amount: float, now: float) -> float:
        """Reserve `amount` and return the seconds to wait for it; a negative amount gives back."""
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._level = min(self.per_minute, self._level + elapsed * self.per_minute / 60) - amount
        return max(0.0, -self._level * 60 / self.per_minute)


@dataclass
class LocalLimiter:
    """Requests and tokens per minute of each model, within one process; none means no limit.

    A single call above a minute's tokens counts as the whole minute.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    monotonic: Callable[[], float] = clock.monotonic
    _buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    async def slot(self, model: str, tokens: int) -> None:
        claims = [
            (self._bucket(model, kind, limit), amount)
            for kind, limit, amount in (
                ("requests", self.requests_per_minute, 1),
                ("tokens", self.tokens_per_minute, min(tokens, self.tokens_per_minute or tokens)),
            )
            if limit is not None
        ]
        now = self.monotonic()
        wait = max((bucket.take(amount, now) for bucket, amount in claims), default=0.0)
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            for bucket, amount in claims:
                bucket.take(-amount, self.monotonic())
            raise

    def _bucket(self, model: str, kind: str, limit: float) -> Bucket:
        return self._buckets.setdefault((model, kind), Bucket(limit))
