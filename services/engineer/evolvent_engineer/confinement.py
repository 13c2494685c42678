"""What a forked child enters before it runs a line that is not ours."""

import ctypes
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evolvent_schemas.values import SandboxTier

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """What all children of one fork server share."""

    tier: SandboxTier
    profile: Literal["eager", "compile"]
    preload: Sequence[str]
    readable: Sequence[str]
    """System folders and the interpreter's own, which children may read and execute."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One child."""

    id: str
    role: Literal["evaluator", "candidate"]
    scratch: str
    """Where it may write; its working directory."""
    readable: Sequence[str]
    memory: int
    """Bytes beyond what the server has loaded."""
    cpu: float
    """Seconds."""
    processes: int
    disk: int
    """Bytes."""
    files: int


def prepare(settings: Settings) -> None:
    """Do once, in the server, what all children of a tier share."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def fork(settings: Settings) -> int:
    """Fork a child, in its own process namespace where the tier has one."""
    return os.fork()


def orphans(known: set[int]) -> list[int]:
    """List children of this process other than the known ones: daemons that lost their parent."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in children.split() if int(pid) not in known]


def enter(spec: Spec, settings: Settings) -> None:
    """Confine this process for good.

    Raises:
        OSError: a step failed; the process must not go on.
    """
    os.setsid()
    os.chdir(spec.scratch)
    _limit(spec)
    os.environ.clear()
    os.environ.update({"PATH": "/usr/bin:/bin", "HOME": spec.scratch, "TMPDIR": spec.scratch, "LANG": "C.UTF-8"})
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _limit(spec: Spec) -> None:
    cpu = math.ceil(spec.cpu)
    for name, soft, hard in (
        ("RLIMIT_CPU", cpu, cpu + 1),
        ("RLIMIT_FSIZE", spec.disk, spec.disk),
        ("RLIMIT_NOFILE", 256, 256),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_DATA", *(2 * (_data_bytes() + spec.memory,))),
    ):
        resource.setrlimit(getattr(resource, name), (soft, hard))


def _data_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        return 0
