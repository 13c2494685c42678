"""Keep calls within an endpoint's rate limits."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from evolvent import clock
from evolvent.shared import Shared
from evolvent_schemas import subjects
from evolvent_schemas.values import Value, canonical, sha256


class Limiter(Protocol):
    """Who says when the next call may go out."""

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


class Levels(Value):
    """A shared state: what is left of each limit, below zero where it was lent, as it was at `at`."""

    at: float
    """Seconds since the epoch, by the clock of whoever wrote it."""
    levels: dict[str, float]


@dataclass(frozen=True)
class SharedLimiter:
    """The same limits, kept together by all replicas that call one endpoint.

    Clocks that differ by some seconds let at most so many seconds' worth through at once, and only once.
    """

    shared: Shared
    base_url: str
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    async def slot(self, model: str, tokens: int) -> None:
        claims = self._claims(tokens)
        if not claims:
            return
        now = clock.now().timestamp()

        def take(stored: bytes | None) -> tuple[bytes, float]:
            before = Levels.model_validate_json(stored) if stored else Levels(at=now, levels={})
            after, wait = _taken(before, claims, now)
            return after.model_dump_json().encode(), wait

        subject = subjects.limit(sha256(canonical([self.base_url, model])))
        await asyncio.sleep(await self.shared.change(subject, take))

    def _claims(self, tokens: int) -> dict[str, tuple[float, float]]:
        """List what a call takes of each limit, as `{limit: (amount, per minute)}`."""
        claims: dict[str, tuple[float, float]] = {}
        if self.requests_per_minute is not None:
            claims["requests"] = 1.0, self.requests_per_minute
        if self.tokens_per_minute is not None:
            claims["tokens"] = min(float(tokens), self.tokens_per_minute), self.tokens_per_minute
        return claims


def _taken(before: Levels, claims: dict[str, tuple[float, float]], now: float) -> tuple[Levels, float]:
    """Refill every limit for the time gone by, take the claims, and say how long to wait for them."""
    elapsed = max(0.0, now - before.at)
    levels, wait = dict(before.levels), 0.0
    for name, (amount, rate) in claims.items():
        levels[name] = min(rate, levels.get(name, rate) + elapsed * rate / 60) - amount
        wait = max(wait, -levels[name] * 60 / rate)
    return Levels(at=max(now, before.at), levels=levels), wait
