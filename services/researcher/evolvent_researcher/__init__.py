"""The researcher: samples a context from the population and designs the next candidate."""

import contextlib
from collections.abc import AsyncIterator

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_researcher.handlers import HANDLERS
from evolvent_researcher.studio import FOLD, Studio


@contextlib.asynccontextmanager
async def service(_platform: Platform) -> AsyncIterator[Service[Studio]]:
    """Build the role."""
    yield Service("researcher", FOLD, HANDLERS)
