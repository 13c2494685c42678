"""What a forked child enters before it runs a line that is not ours.

| tier | made of |
|---|---|
| T1 | own mounts, processes and cgroup; a private root; no network; another user; seccomp |
| T2 | landlock, seccomp, rlimits; no network where that may be left; another user or no capabilities |
| T3 | rlimits and a process group; no boundary |

In all of them the environment is empty, no descriptor but the channel and the output is open, and the child dies
with its server. A child of a group (T2, T3) has the group's variables and may open TCP sockets; where a server serves
a group, seccomp denies sockets to its other children also in T3.
"""

import math
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evolvent_engineer import kernel, landlock, seccomp
from evolvent_engineer.namespaces import Template, without_network
from evolvent_schemas.values import SandboxTier

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_SYSTEM_FILES = ("/dev/random", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm")
_OWN_FILES = tuple(
    f"/proc/self/{name}"
    for name in "cgroup cmdline comm fd limits maps mountinfo mounts smaps stat statm status".split()  # noqa: SIM905
)
"""Not `net`, nor `task`, which leads to it: what one sandbox of a pod connects or names there, another could read."""
_GROUP_FILES = ("/proc/self", "/etc/hosts", "/sys/bus/pci", "/sys/class/net", "/sys/devices")
"""Where a process looks its own address up, without which gloo would listen on the loopback interface only; and the
buses and interfaces by which gloo and NCCL choose a way.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all children of one fork server share."""

    tier: SandboxTier
    profile: Literal["eager", "compile"]
    preload: Sequence[str]
    readable: Sequence[str]
    """System folders and the interpreter's own, which children may read and execute."""
    root: str
    """An empty folder; T1 builds the children's root on it."""
    devices: Sequence[str] = ()
    """Device files that children may use, for example `/dev/nvidia0`."""
    grouped: bool = False
    """Whether a child may be of a group: the server then keeps its network, and every other child leaves it."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One child."""

    id: str
    role: Literal["evaluator", "candidate"]
    scratch: str
    """Where it may write; in T1 a tmpfs takes its place."""
    bundle: str | None
    """The task's folder, for an evaluator."""
    cgroups: Sequence[str]
    """`cgroup.procs` files to join."""
    user: int | None
    """The unprivileged user to become; none to stay who we are, without capabilities."""
    memory: int
    """Bytes beyond what the server has loaded."""
    cpu: float
    """Seconds."""
    processes: int
    disk: int
    """Bytes."""
    files: int
    group: Mapping[str, str] | None = None
    """Variables that lead to the other processes of its group, which it may reach; none for a child without network."""


class Confinement:
    """Forks and confines the children of one server."""

    def __init__(self, settings: Settings) -> None:
        """Do once what all children share.

        Raises:
            OSError: this process may not, so that the tier is not to be had here.
        """
        self._settings = settings
        self._template: Template | None = None
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        if settings.tier == "T1":
            self._template = Template(settings.root, settings.readable, settings.devices)
        elif settings.tier == "T2" and not settings.grouped:
            without_network()

    def fork(self) -> int:
        return os.fork() if self._template is None else self._template.fork()

    def enter(self, spec: Spec) -> None:
        """Confine this process for good.

        Raises:
            OSError: a step failed; the process must not go on.
        """
        os.setsid()
        inherited = _data_bytes()
        for path in spec.cgroups:
            Path(path).write_text("0")
        if self._template is not None:
            user, bundle = spec.user or 0, spec.bundle
            self._template.enter(user=user, disk=spec.disk, files=spec.files, bundle=bundle)
        else:
            os.chdir(spec.scratch)
        if self._settings.grouped and spec.group is None:
            without_network()
        _begin_environment(spec.group or {})
        self._limit(spec, inherited)
        if sys.platform == "linux":
            self._lock(spec)

    def _limit(self, spec: Spec, inherited: int) -> None:
        cpu = math.ceil(spec.cpu)
        limits = {
            "RLIMIT_CPU": (cpu, cpu + 1),
            "RLIMIT_FSIZE": (spec.disk, spec.disk),
            "RLIMIT_NOFILE": (256, 256),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_MEMLOCK": (0, 0),
        }
        if self._template is None:
            limits["RLIMIT_DATA"] = 2 * (inherited + spec.memory,)
        if spec.user is not None:
            limits["RLIMIT_NPROC"] = 2 * (spec.processes + 1,)
        for name, limit in limits.items():
            resource.setrlimit(getattr(resource, name), limit)

    def _lock(self, spec: Spec) -> None:
        """Give up every privilege, then every file, then every call. The order is the only one that works."""
        _become(spec.user)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if self._settings.tier == "T2":
            self._restrict(spec)
        if self._settings.tier in {"T1", "T2"} or self._settings.grouped:
            seccomp.install(self._rules(spec))

    def _restrict(self, spec: Spec) -> None:
        bundle = () if spec.bundle is None else (spec.bundle,)
        more = _OWN_FILES if spec.group is None else _GROUP_FILES
        readable = (*self._settings.readable, *_SYSTEM_FILES, *more, *bundle)
        writable = (spec.scratch, *_DEVICES, *self._settings.devices)
        landlock.restrict(readable, writable, streams=spec.group is not None)

    def _rules(self, spec: Spec) -> seccomp.Rules:
        forks, alone = self._settings.profile == "compile", self._template is not None
        return seccomp.Rules(
            threads=spec.processes > 0,
            forks=forks and spec.processes > 0,
            signals=alone or (forks and landlock.abi() >= landlock.SCOPED_ABI),
            changes=alone,
            streams=spec.group is not None,
            letters=spec.group is not None and bool(self._settings.devices),
        )


def _become(user: int | None) -> None:
    """Become another user, or stay root without capabilities, or stay the ordinary user that we are."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else its own /proc/self would be closed to it
    elif os.geteuid() == 0:
        kernel.drop_capabilities()


def _begin_environment(group: Mapping[str, str]) -> None:
    here = str(Path.cwd())
    os.environ.clear()
    os.environ.update({"PATH": "/usr/bin:/bin", "HOME": here, "TMPDIR": here, "LANG": "C.UTF-8", **group})


def _data_bytes() -> int:
    """Read the size of this process's data, which RLIMIT_DATA counts; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def orphans(known: set[int]) -> list[int]:
    """List children of this process other than the known ones: daemons that lost their parent."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in children.split() if int(pid) not in known]
