"""Look at the process tree through /proc: who descends from whom, and who is gone."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with its number by when it started."""

    pid: int
    started: str
    command: str

    @property
    def alive(self) -> bool:
        """A zombie is dead: it only waits for its parent to look."""
        fields = _stat(self.pid)
        return fields is not None and fields[19] == self.started and fields[0] not in "ZX"

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.alive:
            os.kill(self.pid, number)


def _stat(pid: int) -> list[str] | None:
    """Read the fields of /proc/<pid>/stat after the name: state, parent, … (proc(5), fields 3 and on)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _process(pid: int) -> Process | None:
    fields = _stat(pid)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Process(pid, fields[19], command) if fields else None


def descendants(root: int) -> list[Process]:
    """List every living process below `root`, the nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], list(children.get(root, []))
    while waiting:
        pid = waiting.pop(0)
        waiting += children.get(pid, [])
        if (process := _process(pid)) is not None and process.alive:
            found.append(process)
    return found


def child(root: int, words: str) -> Process | None:
    """Find the process below `root` whose command line holds these words."""
    return next((process for process in descendants(root) if words in process.command), None)


def still_there(family: list[Process], within: float) -> list[Process]:
    """Wait until all of them are gone, at most so many seconds, and list those that are not."""
    deadline = time.monotonic() + within
    while (left := [process for process in family if process.alive]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
