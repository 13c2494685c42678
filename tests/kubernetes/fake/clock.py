"""Simulated time: everything in the cluster that waits, waits here."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Action = Callable[[], None]


class Clock:
    """Seconds since the cluster started. Moves only by `advance`, or along real time while `follow` runs."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self.seconds = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Action]] = []

    def stamp(self, seconds: float | None = None) -> str:
        """RFC 3339, whole seconds, as the API server writes it."""
        moment = self._start + timedelta(seconds=self.seconds if seconds is None else seconds)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def since(self, stamp: str) -> float:
        """Seconds that have passed since a stamp of this clock."""
        return self.seconds - (datetime.fromisoformat(stamp) - self._start).total_seconds()

    def call_later(self, delay: float, action: Action) -> None:
        """Run `action` once `delay` seconds have passed; equal times keep their order."""
        heapq.heappush(self._due, (self.seconds + max(delay, 0.0), next(self._order), action))

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, running whatever falls due at its own time."""
        until = self.seconds + seconds
        while self._due and self._due[0][0] <= until:
            at, _, action = heapq.heappop(self._due)
            self.seconds = max(self.seconds, at)
            action()
        self.seconds = until

    async def follow(self, rate: float = 1.0, tick: float = 0.01) -> None:
        """Advance `rate` simulated seconds per real second until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(tick)
            now = loop.time()
            self.advance((now - last) * rate)
            last = now
