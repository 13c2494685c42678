"""Which sandbox tiers are to be had on this machine, and what keeps a better one away."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from evolvent_engineer import kernel, landlock, seccomp
from evolvent_engineer.cgroups import CgroupError, Cgroups
from evolvent_engineer.namespaces import Template
from evolvent_schemas.values import SandboxTier

_PROBE_SECONDS = 30
_BOUNDARIES: tuple[SandboxTier, ...] = ("T1", "T2")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe found."""

    tier: SandboxTier
    """The best tier to be had."""
    obstacles: dict[SandboxTier, str] = field(default_factory=dict)
    """Why each better tier is not to be had."""


def probe() -> Probe:
    """Try the tiers from the best down, for real, in processes that end."""
    obstacles: dict[SandboxTier, str] = {}
    for tier in _BOUNDARIES:
        if (found := obstacle(tier)) is None:
            return Probe(tier, obstacles)
        obstacles[tier] = found
    return Probe("T3", obstacles)


def obstacle(tier: SandboxTier) -> str | None:
    """Say what keeps a tier from being had here, or none. T3 is to be had everywhere, T0 is another backend."""
    match tier:
        case "T0":
            return "a hardened Job needs a cluster"
        case "T1":
            return _against_namespaces()
        case "T2":
            return _against_landlock()
        case "T3":
            return None


def unfiltered() -> str | None:
    """Say what keeps system calls from being filtered here, or none."""
    if sys.platform != "linux" or not seccomp.available():
        return f"no seccomp rules for {sys.platform} on {os.uname().machine}"
    return _against("T3")


def system() -> tuple[str, ...]:
    """List what any program needs to read: the system's libraries and the interpreter with its packages."""
    paths = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu")
    packages = (path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return tuple(dict.fromkeys((*paths, sys.base_prefix, sys.prefix, *packages)))


def strangers_may_read(tier: SandboxTier, work: Path) -> bool:
    """Tell whether a user without rights could use the interpreter, and its scratch below `work`.

    In T1 only the folders themselves count: what lies above them is another root.
    """
    prefixes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    folders = prefixes if tier == "T1" else {each for path in (*prefixes, work.resolve()) for each in path.parents}
    readable = all(folder.stat().st_mode & 0o005 == 0o005 for folder in prefixes)
    return readable and all(folder.stat().st_mode & 0o001 for folder in folders)


def _against_namespaces() -> str | None:
    if sys.platform != "linux":
        return "namespaces and control groups exist on Linux only"
    if os.geteuid() != 0:
        return "root is needed to mount and to make control groups"
    if not seccomp.available():
        return f"no seccomp rules for {os.uname().machine}"
    try:
        Cgroups().close()
    except CgroupError as error:
        return str(error)
    return _against("T1")


def _against_landlock() -> str | None:
    if sys.platform != "linux":
        return "landlock and seccomp exist on Linux only"
    if not seccomp.available():
        return f"no seccomp rules for {os.uname().machine}"
    if (abi := landlock.abi()) < landlock.LEAST_ABI:
        return f"landlock {landlock.LEAST_ABI} (Linux 6.2) is needed and the kernel has {abi or 'none'}"
    return _against("T2")


def _against(tier: SandboxTier) -> str | None:
    """Enter the tier in a process of its own, and say what it failed at."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "evolvent_engineer.tiers", tier, folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return None if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2] or "the probe failed"


def _enter(tier: str, folder: str) -> None:
    """Enter a tier's own steps, to see whether this machine lets us.

    Raises:
        OSError: it does not.
    """
    if tier == "T1":
        Template(folder, system(), ()).enter(user=0, disk=2**20, files=8, bundle=None)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if tier == "T2":
        landlock.restrict(system(), (folder,))
    seccomp.install(seccomp.Rules(threads=False, forks=False, signals=False, changes=False))


if __name__ == "__main__":
    _enter(*sys.argv[1:])
