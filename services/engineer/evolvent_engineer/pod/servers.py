"""A container's own fork server."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from evolvent.errors import Refused
from evolvent_engineer import tiers
from evolvent_engineer.confinement import Settings
from evolvent_engineer.pod.settings import SandboxWithin
from evolvent_engineer.server import ForkServer


@contextlib.asynccontextmanager
async def fork_server(
    work: Path,
    sandbox: SandboxWithin,
    *,
    profile: Literal["eager", "compile"] = "eager",
    preload: Sequence[str] = (),
    devices: Sequence[str] = (),
    grouped: bool = False,
) -> AsyncIterator[ForkServer]:
    """Start it in a folder of its own, and end it with all its children.

    One that is `grouped` may give children a network, and needs seccomp to deny it to the others.

    Raises:
        Refused: the container's runtime does not have what the sandbox is made of.
        ServerError: a module of `preload` cannot be imported.
    """
    if (obstacle := tiers.obstacle(sandbox)) is not None:
        raise Refused(
            f"sandbox {sandbox} is not to be had in this container: {obstacle}; "
            "EVOLVENT_EXPERIMENT_SANDBOX=T3 goes on with the pod as the only boundary"
        )
    if grouped and sandbox == "T3" and (obstacle := tiers.unfiltered()) is not None:
        raise Refused(f"several pods need seccomp, which is not to be had in this container: {obstacle}")
    root = _root(work)
    settings = Settings(sandbox, profile, tuple(preload), tiers.system(), root, tuple(devices), grouped)
    server = await ForkServer.start(settings, work / "server.log")
    try:
        yield server
    finally:
        await server.close()


def _root(work: Path) -> str:
    """Make the container's work folder, which sandboxes of other users pass through, and an empty one in it."""
    work.mkdir(parents=True, mode=0o711)
    (root := work / "root").mkdir()
    return str(root)
