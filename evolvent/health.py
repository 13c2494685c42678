"""What a served role says of itself over HTTP: `/live`, the loop turns, and `/ready`, facts can be handled.

Live says nothing about the bus: an election of the log's leader may not restart anybody. Standard library only.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from evolvent.clock import monotonic
from evolvent.errors import Refused
from evolvent.platform import Platform
from evolvent.settings import Settings

OLDEST_TICK = 10.0
"""Seconds: what blocks the loop for longer also loses its acknowledgements (`ack_wait`)."""
PATIENCE = 5.0
"""Seconds a caller has to send its request."""
STATUS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


@dataclass
class Health:
    """The state of one process that hosts `roles` roles until `stop` is set."""

    roles: int
    stop: asyncio.Event
    platform: Platform | None = None
    opened: int = 0
    """Roles that have open what they work with."""
    tick: float = field(default_factory=monotonic)

    def noting(
        self, running: Callable[[], AbstractAsyncContextManager[object]]
    ) -> Callable[[], AbstractAsyncContextManager[object]]:
        """Count a role as open for as long as what it works with is open."""

        @contextlib.asynccontextmanager
        async def noted() -> AsyncIterator[object]:
            async with running() as found:
                self.opened += 1
                try:
                    yield found
                finally:
                    self.opened -= 1

        return noted

    def live(self) -> str:
        """Say what is wrong; nothing if the loop turns."""
        age = monotonic() - self.tick
        return f"the loop stood still for {age:.0f} s" if age > OLDEST_TICK else ""

    def ready(self) -> str:
        """Say what is missing; nothing if facts can be handled."""
        if self.stop.is_set():
            return "draining"
        if self.platform is None or not self.platform.wire.client.is_connected:
            return "not connected to NATS"
        if self.opened < self.roles:
            return "starting"
        behind = [tail.run for tail in self.platform.tails.open() if tail.behind]
        return f"catching up with {', '.join(behind)}" if behind else ""

    async def beat(self) -> None:
        """Tick once a second."""
        while True:
            self.tick = monotonic()
            await asyncio.sleep(1.0)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one request, one answer. What is no request gets none."""
        try:
            async with asyncio.timeout(PATIENCE):
                words = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
                if len(words) == 3:
                    writer.write(self._response(words[1].partition(b"?")[0]))
                    await writer.drain()
        except (TimeoutError, ValueError, OSError):  # too slow, a line too long, a caller that hung up
            return
        finally:
            writer.close()

    def _response(self, path: bytes) -> bytes:
        looks = {b"/live": self.live, b"/ready": self.ready}
        wrong = looks[path]() if path in looks else "there are /live and /ready"
        code = 404 if path not in looks else 503 if wrong else 200
        body = (wrong or "ok").encode() + b"\n"
        head = f"HTTP/1.1 {code} {STATUS[code]}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"Connection: close\r\n\r\n" + body


@contextlib.asynccontextmanager
async def answering(health: Health, settings: Settings) -> AsyncIterator[None]:
    """Answer on the health port, if one is set, for as long as the block lasts.

    Raises:
        Refused: the port is taken.
    """
    if not settings.health_port:
        yield
        return
    try:
        server = await asyncio.start_server(health.answer, settings.health_host, settings.health_port, limit=4096)
    except OSError as error:
        raise Refused(f"the health port cannot be served: {error}; set EVOLVENT_HEALTH_PORT to another") from error
    beating = asyncio.create_task(health.beat())
    try:
        async with server:
            yield
    finally:
        beating.cancel()
