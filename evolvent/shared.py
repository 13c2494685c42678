"""Small values that replicas change together, by compare-and-set on their own stream.

They are not truth: each may be lost at any time, and whoever uses one knows how to begin anew.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from evolvent.clock import jitter
from evolvent.errors import Rejected, Transient
from evolvent.wire import Message, Wire
from evolvent_schemas import envelope

STREAM = "SHARED"
R = TypeVar("R")


@dataclass(frozen=True)
class Shared:
    """The shared values behind one connection."""

    wire: Wire

    async def change(self, subject: str, step: Callable[[bytes | None], tuple[bytes, R]]) -> R:
        """Replace a value by what `step` makes of it, and return what else `step` said.

        `step` may run several times, when others are faster; whatever it raises leaves the value as it is. After a lost
        acknowledgement a change that was stored is made once more on top of itself, which `step` must bear.

        Raises:
            Transient: the server does not answer.
        """
        delay = 0.005
        while True:
            stored = await self._read(subject)
            body, said = step(stored.data if stored else None)
            headers = {
                envelope.EXPECTED_STREAM: STREAM,
                envelope.EXPECTED_SUBJECT_SEQUENCE: str(stored.sequence if stored else 0),
            }
            if await self.wire.store(subject, body, headers) is not None:
                return said
            await asyncio.sleep(jitter(delay))
            delay = min(2 * delay, 0.2)

    async def _read(self, subject: str) -> Message | None:
        try:
            return await self.wire.last(STREAM, subject)
        except (TimeoutError, Rejected) as error:
            raise Transient(f"{subject} cannot be read: {error}") from error
