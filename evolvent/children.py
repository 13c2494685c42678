"""Child processes that never outlive their parent."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1
GUARD = 'exec 3<&0; "$@" <&- & child=$!; (cat <&3 >&-; kill -9 $child) & wait $child'
"""For systems without a parent-death signal: a shell that kills its child when the pipe to the parent closes."""


async def spawn(arguments: Sequence[str], **options: Any) -> asyncio.subprocess.Process:
    """Start a process that is killed when this one dies, however it dies."""
    if sys.platform == "linux":
        return await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.DEVNULL, preexec_fn=_die_with_parent(os.getpid()), **options
        )
    return await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", GUARD, "sh", *arguments, stdin=asyncio.subprocess.PIPE, **options
    )


def _die_with_parent(parent: int) -> Any:
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return before_exec
