"""Namespaces: a root of its own, without network, for each child (tier T1).

The forked child enters them itself instead of executing bubblewrap, which would lose the modules that the fork
server has loaded. The layout is bubblewrap's: a read-only system, a size-limited tmpfs, a fresh /proc. Two things
differ. The network, IPC and host name spaces are made once per server and shared by its children, which seccomp
denies sockets and System V IPC. And there is no user namespace: the child mounts as root and then becomes a user
that exists nowhere else.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from evolvent_engineer import kernel

WORK = "/evolvent/work"
"""Where a child may write, as it sees it."""
BUNDLE = "/evolvent/task"
"""Where an evaluator finds its task, as it sees it."""
_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC, _NEW_PIDS, _NEW_NETWORK = 1 << 17, 1 << 26, 1 << 27, 1 << 29, 1 << 30
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_EXECUTION, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_SEALED = _READ_ONLY | _NO_SETUID | _NO_DEVICES
_REMOUNT = 32
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SPARE_FILES = 8
"""Inodes of a fresh tmpfs beside those a candidate may make."""


class Template:
    """The root that every child of a server starts from."""

    def __init__(self, root: str, readable: Sequence[str], devices: Sequence[str]) -> None:
        """Leave the machine's network and mounts, and build the root. Once per process.

        Raises:
            OSError: this process may not.
        """
        self._root = root
        self._pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        kernel.unshare(_NEW_MOUNTS | _NEW_NETWORK | _NEW_IPC | _NEW_NAMES)
        kernel.mount("none", "/", None, _RECURSIVE | _PRIVATE)
        kernel.mount("tmpfs", root, "tmpfs", _NO_SETUID | _NO_DEVICES, "size=1m,mode=755")
        for path in readable:
            self._show(Path(path))
        for device in (*(f"/dev/{name}" for name in _DEVICES), *devices):
            self._show(Path(device), device=True)
        self._furnish()

    def _show(self, path: Path, *, device: bool = False) -> None:
        """Make a path of the machine visible, read-only, at the same place."""
        inside = Path(f"{self._root}{path}")
        if not path.exists() or inside.exists():
            return
        inside.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            inside.symlink_to(path.readlink())
            return
        inside.mkdir() if path.is_dir() else inside.touch()
        kernel.mount(str(path), str(inside), None, _BIND | _RECURSIVE)
        kernel.protect(str(inside), _NO_SETUID | (_NO_EXECUTION if device else _READ_ONLY | _NO_DEVICES))

    def _furnish(self) -> None:
        for folder in (WORK, BUNDLE, "/proc"):
            Path(f"{self._root}{folder}").mkdir(parents=True, exist_ok=True)
        for link in ("/tmp", "/dev/shm", "/var/tmp"):  # noqa: S108  names inside the root that is built here
            inside = Path(f"{self._root}{link}")
            inside.parent.mkdir(exist_ok=True)
            if not inside.exists():  # the interpreter may live below it
                inside.symlink_to(WORK)
        kernel.mount("none", self._root, None, _BIND | _REMOUNT | _SEALED)

    def fork(self) -> int:
        """Fork a child that is the first process of a new process namespace: with it ends all that it started."""
        kernel.unshare(_NEW_PIDS)
        pid = os.fork()
        if pid:
            kernel.setns(self._pids, _NEW_PIDS)
        return pid

    def enter(self, *, user: int, disk: int, files: int, bundle: str | None) -> None:
        """Take the root as this process's own, with an empty tmpfs of `disk` bytes to write in.

        Raises:
            OSError: a mount failed.
        """
        kernel.unshare(_NEW_MOUNTS)
        work = f"size={disk},nr_inodes={files + _SPARE_FILES},uid={user},gid={user},mode=700"
        kernel.mount("tmpfs", self._root + WORK, "tmpfs", _NO_SETUID | _NO_DEVICES, work)
        kernel.mount("proc", self._root + "/proc", "proc", _SEALED | _NO_EXECUTION)
        if bundle is not None:
            kernel.mount(bundle, self._root + BUNDLE, None, _BIND)
            kernel.protect(self._root + BUNDLE, _SEALED)
        kernel.pivot_root(self._root)
        os.chdir(WORK)


def without_network() -> None:
    """Leave the machine's network where that is allowed; elsewhere seccomp alone denies it."""
    with contextlib.suppress(OSError):
        kernel.unshare(_NEW_NETWORK)
