"""The conductor: the life of a run, its grants and budgets. The only role that opens and closes rounds."""

import contextlib
from collections.abc import AsyncIterator

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_conductor.handlers import FOLD, HANDLERS, expire_rounds
from evolvent_conductor.life import Life


@contextlib.asynccontextmanager
async def service(_platform: Platform) -> AsyncIterator[Service[Life]]:
    """Build the role."""
    yield Service("conductor", FOLD, HANDLERS, heeds_halt=False, background=expire_rounds)
