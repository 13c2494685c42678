"""What every role stands on: one connection, the artifacts, the tails of the runs, the settings."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from evolvent.artifacts import Artifacts
from evolvent.history import Tails
from evolvent.log import Log
from evolvent.settings import Settings
from evolvent.snapshots import Snapshots
from evolvent.wire import Wire, connect


@dataclass(frozen=True)
class Platform:
    """The platform as one process sees it, whatever roles it hosts."""

    settings: Settings
    wire: Wire
    artifacts: Artifacts
    tails: Tails

    def log(self, role: str) -> Log:
        return Log(self.wire, role)


def dial(settings: Settings, name: str, *, patience: float = 10.0) -> AbstractAsyncContextManager[Wire]:
    """Connect to the server that the settings name, as the user that they name.

    Raises:
        Unreachable: none is named, or it does not answer within `patience` seconds.
    """
    to = settings.endpoint()
    login = {"token": to.token, "user": to.user, "password": to.password}
    return connect(to.url, **login, ca=to.ca, name=f"evolvent-{name}", patience=patience)


@contextlib.asynccontextmanager
async def open_platform(settings: Settings, name: str, *, patience: float = 10.0) -> AsyncIterator[Platform]:
    """Connect to the server that the settings name.

    Raises:
        Unreachable: it does not answer within `patience` seconds.
    """
    async with dial(settings, name, patience=patience) as wire:
        tails = Tails(Log(wire, "tail"), Snapshots(settings.home / "snapshots"))
        try:
            yield Platform(settings, wire, Artifacts(wire), tails)
        finally:
            await tails.close()
