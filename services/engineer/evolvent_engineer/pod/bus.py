"""A container's connection to the bus."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from evolvent.wire import Wire, connect
from evolvent_engineer.pod.settings import Fetching

_PATIENCE = 60.0
"""Seconds; a network policy may take some to let a new pod through."""


def bus(settings: Fetching) -> AbstractAsyncContextManager[Wire]:
    """Connect with the credentials that are mounted; a bus that asks for none needs none.

    Raises:
        Unreachable: no server answers.
    """
    user, password, token = (_read(settings.credentials / name) for name in ("user", "password", "token"))
    authority = settings.credentials / "ca.crt"
    return connect(
        settings.nats_url,
        token=token,
        user=user,
        password=password,
        ca=authority if authority.exists() else None,
        name="evolvent-experiment",
        patience=_PATIENCE,
    )


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None
