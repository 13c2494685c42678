"""The engineer: runs candidates where they can do no harm and publishes what was measured."""

import contextlib
import os
from collections.abc import AsyncIterator

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_engineer.orders import FOLD, Orders


@contextlib.asynccontextmanager
async def service(platform: Platform) -> AsyncIterator[Service[Orders]]:
    """Build the role with its local backend.

    Raises:
        Refused: nothing here contains a candidate and that was not allowed.
    """
    from evolvent_engineer.handlers import Engineer
    from evolvent_engineer.local import LocalBackend

    settings = platform.settings
    work = settings.home.resolve() / "work"
    backend = LocalBackend(work / f"engineer-{os.getpid()}", allow_unsafe=settings.allow_unsafe_sandbox)
    await backend.start()
    try:
        engineer = Engineer(backend, "local", work / "bundles")
        workers = settings.engineer_workers or os.cpu_count() or 1
        yield Service("engineer", FOLD, engineer.handlers, concurrency=workers)
    finally:
        await backend.close()
