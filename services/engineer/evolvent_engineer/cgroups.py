"""Control groups: hard limits and exact usage of one sandbox, versions 1 and 2."""

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from evolvent_engineer.meters import Usage

_NEEDED = ("memory", "pids", "cpuacct")
_REMOVAL_SECONDS = 2.0
_count = itertools.count()


class CgroupError(Exception):
    """Control groups cannot be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one version names things."""

    memory_limit: str
    memory_usage: str
    memory_peak: str
    memory_events: str
    swap_limit: str


_V1 = Dialect(
    memory_limit="memory.limit_in_bytes",
    memory_usage="memory.usage_in_bytes",
    memory_peak="memory.max_usage_in_bytes",
    memory_events="memory.oom_control",
    swap_limit="memory.memsw.limit_in_bytes",
)
_V2 = Dialect(
    memory_limit="memory.max",
    memory_usage="memory.current",
    memory_peak="memory.peak",
    memory_events="memory.events",
    swap_limit="memory.swap.max",
)


class Cgroup:
    """One sandbox's group, in each hierarchy that is needed. Also its meter."""

    def __init__(self, folders: dict[str, Path], dialect: Dialect) -> None:
        self._folders = folders
        self._dialect = dialect

    @property
    def doors(self) -> tuple[str, ...]:
        """The files into which a process writes 0 to enter."""
        return tuple(str(folder / "cgroup.procs") for folder in dict.fromkeys(self._folders.values()))

    def limit(self, *, memory: int, processes: int) -> None:
        """Set the limits: `memory` in bytes, without swap; `processes` in all.

        Raises:
            OSError: the group is not ours to limit.
        """
        self._file("memory", self._dialect.memory_limit).write_text(str(memory))
        with contextlib.suppress(OSError):  # absent where swap is not accounted
            swap = 0 if self._dialect is _V2 else memory
            self._file("memory", self._dialect.swap_limit).write_text(str(swap))
        self._file("pids", "pids.max").write_text(str(processes))

    def sample(self) -> Usage:
        memory = self._number("memory", self._dialect.memory_usage)
        return Usage(self._cpu(), memory, max(0, self._number("pids", "pids.current") - 1))

    @property
    def peak(self) -> int:
        """Most bytes that were in use; 0 where the kernel does not say."""
        return self._number("memory", self._dialect.memory_peak)

    @property
    def starved(self) -> bool:
        """Whether the kernel killed something in it for memory."""
        return _event(self._file("memory", self._dialect.memory_events), "oom_kill") > 0

    def remove(self) -> None:
        """Remove the group, once its last process is gone. Idempotent.

        Raises:
            OSError: something in it still runs.
        """
        for folder in dict.fromkeys(self._folders.values()):
            _remove(folder)

    def _cpu(self) -> float:
        if self._dialect is _V2:
            return _event(self._file("cpuacct", "cpu.stat"), "usage_usec") / 1e6
        return self._number("cpuacct", "cpuacct.usage") / 1e9

    def _file(self, controller: str, name: str) -> Path:
        return self._folders[controller] / name

    def _number(self, controller: str, name: str) -> int:
        try:
            return int(self._file(controller, name).read_text())
        except OSError:
            return 0


class Cgroups:
    """The groups of one engineer, below one folder in each hierarchy."""

    def __init__(self) -> None:
        """Find where groups can be made and make ours.

        Raises:
            CgroupError: nowhere.
        """
        folders, self._dialect = _hierarchies()
        name = f"evolvent-{os.getpid()}-{next(_count)}"
        self._folders = {controller: folder / name for controller, folder in folders.items()}
        _sweep(set(folders.values()))
        try:
            for folder in dict.fromkeys(self._folders.values()):
                folder.mkdir(exist_ok=True)
                if self._dialect is _V2:
                    (folder / "cgroup.subtree_control").write_text("+memory +pids")
        except OSError as error:
            self.close()
            raise CgroupError(f"cannot make a control group: {error}") from error

    def create(self, name: str) -> Cgroup:
        """Make one sandbox's group.

        Raises:
            OSError: the kernel refused.
        """
        folders = {controller: folder / name for controller, folder in self._folders.items()}
        for folder in dict.fromkeys(folders.values()):
            folder.mkdir()
        return Cgroup(folders, self._dialect)

    def close(self) -> None:
        """Remove our groups. Idempotent."""
        for folder in dict.fromkeys(self._folders.values()):
            _clear(folder)


def _hierarchies() -> tuple[dict[str, Path], Dialect]:
    """Find the folder of this process in the hierarchy of each needed controller."""
    mounts, own = _mounts(), _own_groups()
    if all(name in mounts and name in own for name in _NEEDED):
        return {name: _existing(mounts[name], own[name]) for name in _NEEDED}, _V1
    if "" in mounts and "" in own:
        folder = mounts[""]  # groups with processes may have no limited children, except for the root
        with contextlib.suppress(OSError):
            granted = (folder / "cgroup.controllers").read_text().split()
            if {"memory", "pids"} <= set(granted):
                return dict.fromkeys(_NEEDED, folder), _V2
    raise CgroupError("no control group hierarchy offers memory and pids")


def _existing(mount: Path, group: str) -> Path:
    """Find our group; in a container that sees only its own, the mount itself is it."""
    return mount / group if (mount / group).is_dir() else mount


def _mounts() -> dict[str, Path]:
    """Map each controller to its version 1 mount, and the empty name to that of version 2."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, folder, kind, options, *_ = line.split()
            if kind == "cgroup2":
                found[""] = Path(folder)
            elif kind == "cgroup":
                found |= dict.fromkeys(set(options.split(",")) & set(_NEEDED), Path(folder))
    return found


def _own_groups() -> dict[str, str]:
    """Map each controller to this process's group in it, as a relative path."""
    with contextlib.suppress(OSError):
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        return {name: group.lstrip("/") for _, names, group in lines for name in names.split(",")}
    return {}


def _sweep(folders: set[Path]) -> None:
    """Remove groups of engineers that were killed before they could."""
    for folder in folders:
        for group in folder.glob("evolvent-*"):
            if not Path(f"/proc/{group.name.split('-')[1]}").exists():
                _clear(group)


def _clear(folder: Path) -> None:
    for group in (*folder.glob("*/"), folder):
        with contextlib.suppress(OSError):
            group.rmdir()


def _remove(folder: Path) -> None:
    """Remove one group; its last process may take a moment to leave."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


def _event(path: Path, name: str) -> int:
    """Read one number of a file of `name value` lines."""
    try:
        lines = dict(line.split() for line in path.read_text().splitlines())
    except OSError:
        return 0
    return int(lines.get(name, 0))
