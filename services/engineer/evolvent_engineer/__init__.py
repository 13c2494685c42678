"""The engineer: runs candidates where they can do no harm and publishes what was measured.

What a sandbox is started with comes through here as well, so that only the role itself imports the platform.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolvent.platform import Platform
    from evolvent.service import Service
    from evolvent_engineer.orders import Orders


def service(platform: Platform) -> Service[Orders]:
    """Build the role with the backend that the settings name.

    While it runs, `Refused` is raised where nothing contains a candidate and that was not allowed, or where a setting
    of the cluster is missing.
    """
    from evolvent_engineer.settings import EngineerSettings

    if EngineerSettings().backend == "kubernetes":
        from evolvent_engineer.kubernetes.role import connected, on_kubernetes

        return on_kubernetes(platform, connected)
    return _on_this_machine(platform)


def _on_this_machine(platform: Platform) -> Service[Orders]:
    from evolvent.service import Service
    from evolvent_engineer.handlers import Engineer
    from evolvent_engineer.local import LocalBackend
    from evolvent_engineer.orders import FOLD
    from evolvent_engineer.progress import Progress

    settings = platform.settings
    work = settings.home.resolve() / "work"
    backend = LocalBackend(work / f"engineer-{os.getpid()}", allow_unsafe=settings.allow_unsafe_sandbox)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        _sweep(work)
        await backend.start()
        try:
            yield
        finally:
            await backend.close()

    workers = settings.engineer_workers or os.cpu_count() or 1
    handlers = Engineer(backend, "local", work / "bundles", Progress(platform.wire)).handlers
    return Service("engineer", FOLD, handlers, concurrency=workers, running=running)


def _sweep(work: Path) -> None:
    """Remove what engineers left here that were killed; the number in a folder's name is its owner's process."""
    for folder in work.glob("engineer-*"):
        if not _runs(int(folder.name.removeprefix("engineer-"))):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
