"""What every role stands on: one connection, the artifacts, the snapshots, the settings."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from evolvent.artifacts import Artifacts
from evolvent.folds import Snapshots
from evolvent.log import Log
from evolvent.settings import Settings
from evolvent.wire import Wire, connect


@dataclass(frozen=True)
class Platform:
    """The platform as one process of one role sees it."""

    settings: Settings
    wire: Wire
    artifacts: Artifacts
    snapshots: Snapshots

    def log(self, role: str) -> Log:
        return Log(self.wire, role)


@contextlib.asynccontextmanager
async def open_platform(settings: Settings, name: str, *, patience: float = 10.0) -> AsyncIterator[Platform]:
    """Connect to the server that the settings name.

    Raises:
        Unreachable: it does not answer within `patience` seconds.
    """
    url, token = settings.endpoint()
    async with connect(url, token=token, name=f"evolvent-{name}", patience=patience) as wire:
        yield Platform(settings, wire, Artifacts(wire), Snapshots(settings.home / "snapshots"))
