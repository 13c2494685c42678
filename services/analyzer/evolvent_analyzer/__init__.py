"""The analyzer: turns raw measurements into fitness, comparisons and lessons."""

import contextlib
from collections.abc import AsyncIterator

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_analyzer.handlers import HANDLERS
from evolvent_analyzer.ledger import FOLD, Ledger


@contextlib.asynccontextmanager
async def service(_platform: Platform) -> AsyncIterator[Service[Ledger]]:
    """Build the role."""
    yield Service("analyzer", FOLD, HANDLERS)
