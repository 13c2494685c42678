"""Usage of a running sandbox, measured from outside."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses now; `cpu`, in seconds, is what it has used since it began."""

    cpu: float = 0.0
    memory: int = 0
    processes: int = 0
    """Beside the first thread of the first process."""
    gpu: int = 0
    """Bytes in use on the GPUs of its container; 0 where nobody asked the driver."""


class Meter(Protocol):
    """One sandbox's usage."""

    def sample(self) -> Usage:
        """Measure now; zeros when it has ended."""
        ...


class ProcessMeter:
    """Adds up a process tree from /proc. Where there is no /proc it measures nothing."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._inherited = _process(pid).memory

    @property
    def inherited(self) -> int:
        """Bytes that were resident when the child was forked: the server's own modules."""
        return self._inherited

    def sample(self) -> Usage:
        tree = [_process(pid) for pid in _tree(self._pid)]
        return Usage(
            cpu=sum(process.cpu for process in tree),
            memory=sum(max(0, process.memory - self._inherited) for process in tree),
            processes=max(0, sum(process.processes for process in tree) - 1),
        )


def _tree(root: int) -> Iterator[int]:
    pending = [root]
    while pending:
        pid = pending.pop()
        yield pid
        try:
            pending += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            continue


def _process(pid: int) -> Usage:
    """Read one process; `processes` is its number of threads."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return Usage()
    utime, stime, children_utime, children_stime, threads, rss = (int(stat[n]) for n in (11, 12, 13, 14, 17, 21))
    return Usage((utime + stime + children_utime + children_stime) / _TICK, rss * _PAGE, threads)


@dataclass(frozen=True, slots=True)
class Occupied:
    """What a folder holds."""

    disk: int
    """Bytes."""
    files: int
    """Files and folders."""


def occupied(folder: Path, *, most: int) -> Occupied:
    """Measure a folder, following no link, and stop counting after `most` entries."""
    disk = files = 0
    pending = [folder]
    while pending and files <= most:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            files += 1
            disk += _blocks(entry)
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
    return Occupied(disk, files)


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        return 0
