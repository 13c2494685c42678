"""Cognition: keeps knowledge and lessons, retrieves them for each design, screens programs for novelty."""

import contextlib
import os
from collections.abc import AsyncIterator

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_cognition.memory import FOLD, Memory


@contextlib.asynccontextmanager
async def service(platform: Platform) -> AsyncIterator[Service[Memory]]:
    """Build the role, with an index of its own below the home."""
    from evolvent_cognition.handlers import Cognition
    from evolvent_cognition.shelves import Shelves, own_folder

    folder, descriptor = own_folder(platform.settings.home / "index")
    shelves = Shelves(str(folder))
    try:
        yield Service("cognition", FOLD, Cognition(shelves).handlers)
    finally:
        await shelves.close()
        os.close(descriptor)
