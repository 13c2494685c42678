"""Cells: children of a fork server, each with its channel, its output, its folder and its meter."""

import asyncio
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from evolvent_engineer.cgroups import Cgroup, Cgroups
from evolvent_engineer.confinement import Spec
from evolvent_engineer.meters import Occupied, ProcessMeter, Usage, occupied
from evolvent_engineer.namespaces import BUNDLE
from evolvent_engineer.output import Output
from evolvent_engineer.server import Child, Exit, ForkServer
from evolvent_schemas.values import Limits, SandboxTier

MB = 1024 * 1024
_FIRST_USER = 0x70000000
"""Far above the users of any machine, and below 2**31."""
Role = Literal["evaluator", "candidate"]


def users() -> Iterator[int]:
    """Count through users that exist nowhere else: 4,096 for each engineer's pid, over and over."""
    first = _FIRST_USER + (os.getpid() % 2**16) * 2**12
    return itertools.cycle(range(first, first + 2**12))


class Cell:
    """One confined child."""

    def __init__(self, child: Child, output: Output, scratch: Path, cgroup: Cgroup | None) -> None:
        self.child = child
        self.output = output
        self.ended = False
        self.starved = False
        self._scratch = scratch
        self._cgroup = cgroup
        self._process = ProcessMeter(child.pid)
        self._cpu = 0.0
        self._peak = 0

    @property
    def exit(self) -> Exit | None:
        """How it ended, or none while it runs.

        Raises:
            ServerError: it ended because its fork server died.
        """
        return self.child.exited.result() if self.child.exited.done() else None

    @property
    def cpu(self) -> float:
        """Seconds used, as far as known."""
        return self._cpu

    @property
    def peak(self) -> int:
        """Largest memory, in bytes, as far as known."""
        return self._peak

    async def wait(self, seconds: float) -> Exit | None:
        """Wait for its end; none if it still runs after so many seconds."""
        await asyncio.wait([self.child.exited], timeout=seconds)
        return self.exit

    def sample(self) -> Usage:
        usage = (self._cgroup or self._process).sample()
        self._cpu, self._peak = max(self._cpu, usage.cpu), max(self._peak, usage.memory)
        return usage

    def occupied(self, most: int) -> Occupied:
        """Measure its folder; a tmpfs of its own keeps its limits itself and is not seen from here."""
        return occupied(self._scratch, most=most)

    def remove(self) -> None:
        """Book the final usage of an ended child and remove its folder and group. Idempotent.

        Raises:
            OSError: something in its group still runs.
        """
        if not self.ended:
            self._book()
        self.ended = True
        if self._cgroup is not None:
            self._cgroup.remove()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _book(self) -> None:
        if self._cgroup is not None:
            self._cpu = max(self._cpu, self._cgroup.sample().cpu)
            self._peak = max(self._peak, self._cgroup.peak)
            self.starved = self._cgroup.starved
        elif self.child.exited.exception() is None:
            exited = self.child.exited.result()
            self._cpu = max(self._cpu, exited.cpu)
            self._peak = max(self._peak, exited.peak - self._process.inherited)


class Cells:
    """Opens and ends the cells of one fork server."""

    def __init__(
        self,
        server: ForkServer,
        work: Path,
        tier: SandboxTier,
        *,
        cgroups: Cgroups | None,
        users: Iterator[int] | None,
    ) -> None:
        self._server = server
        self._work = work
        self._tier = tier
        self._cgroups = cgroups
        self._users = users

    async def open(
        self,
        name: str,
        role: Role,
        limits: Limits,
        overflowed: Callable[[int], None],
        *,
        bundle: str | None = None,
        grouped: bool = False,  # noqa: ARG002 - nobody on this machine has peers on another
    ) -> tuple[Cell, socket.socket]:
        """Fork a confined child and return it with our end of its channel, which is non-blocking.

        One that is `grouped` can reach its peers in other pods, where the experiment has any.

        Raises:
            ServerError: the server is gone.
            OSError: a folder or group could not be made.
        """
        scratch, user = self._work / name, self._user(role)
        _make_scratch(scratch, user)
        cgroup = self._group(name, limits)
        output = Output(limits.output_kb * 1024, overflowed)
        ours, theirs = socket.socketpair()
        try:
            spec = Spec(
                id=name,
                role=role,
                scratch=str(scratch),
                bundle=bundle,
                cgroups=() if cgroup is None else cgroup.doors,
                user=user,
                memory=limits.memory_mb * MB,
                cpu=limits.cpu_seconds,
                processes=limits.processes,
                disk=limits.disk_mb * MB,
                files=limits.files,
            )
            with theirs:
                child = await self._server.spawn(spec, theirs.fileno(), output.write)
            output.begun()
        except BaseException:
            ours.close()
            output.close()
            if cgroup is not None:
                cgroup.remove()
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        ours.setblocking(False)
        return Cell(child, output, scratch, cgroup), ours

    def bundle(self, path: Path) -> str:
        """Tell where an evaluator finds its task."""
        return BUNDLE if self._tier == "T1" else str(path)

    def _user(self, role: Role) -> int | None:
        """Choose the user of a candidate; an evaluator stays who we are, who may read the bundle."""
        return next(self._users) if self._users is not None and role == "candidate" else None

    def _group(self, name: str, limits: Limits) -> Cgroup | None:
        if self._cgroups is None:
            return None
        cgroup = self._cgroups.create(name)
        cgroup.limit(memory=limits.memory_mb * MB, processes=limits.processes + 1)
        return cgroup

    async def end(self, cell: Cell) -> None:
        """End a cell and remove whatever it left. Idempotent."""
        await self._server.kill(cell.child)
        cell.output.close()
        await asyncio.to_thread(cell.remove)


def _make_scratch(scratch: Path, user: int | None) -> None:
    scratch.mkdir(mode=0o700)
    if user is not None:
        os.chown(scratch, user, user)
