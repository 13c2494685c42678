"""Cells: children of a fork server, each with its channel, its output, its folder and its meter."""

import asyncio
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from evolvent_engineer.confinement import Spec
from evolvent_engineer.meters import Occupied, ProcessMeter, Usage, occupied
from evolvent_engineer.output import Output
from evolvent_engineer.server import Child, Exit, ForkServer
from evolvent_schemas.values import Limits

MB = 1024 * 1024


class Cell:
    """One confined child."""

    def __init__(self, child: Child, output: Output, scratch: Path) -> None:
        self.child = child
        self.output = output
        self.scratch = scratch
        self._meter = ProcessMeter(child.pid)
        self._cpu = 0.0
        self._peak = 0
        self.ended = False

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
        usage = self._meter.sample()
        self._cpu, self._peak = max(self._cpu, usage.cpu), max(self._peak, usage.memory)
        return usage

    def occupied(self, most: int) -> Occupied:
        return occupied(self.scratch, most=most)

    def book(self) -> None:
        """Take the final usage of an ended child."""
        self.ended = True
        if self.child.exited.exception() is None:
            exited = self.child.exited.result()
            self._cpu = max(self._cpu, exited.cpu)
            self._peak = max(self._peak, exited.peak - self._meter.inherited)


class Cells:
    """Opens and ends the cells of one fork server."""

    def __init__(self, server: ForkServer, work: Path) -> None:
        self._server = server
        self._work = work

    async def open(
        self,
        name: str,
        role: Literal["evaluator", "candidate"],
        limits: Limits,
        overflowed: Callable[[int], None],
        *,
        readable: tuple[str, ...] = (),
    ) -> tuple[Cell, socket.socket]:
        """Fork a confined child and return it with our end of its channel, which is non-blocking.

        Raises:
            ServerError: the server is gone.
        """
        scratch = self._work / name
        scratch.mkdir(mode=0o700, parents=True)
        output = Output(limits.output_kb * 1024, overflowed)
        ours, theirs = socket.socketpair()
        try:
            spec = _spec(name, role, limits, scratch, readable)
            with theirs:
                child = await self._server.spawn(spec, theirs.fileno(), output.write)
            output.begun()
        except BaseException:
            ours.close()
            output.close()
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        ours.setblocking(False)
        return Cell(child, output, scratch), ours

    async def end(self, cell: Cell) -> None:
        """End a cell and remove whatever it left. Idempotent."""
        if not cell.ended:
            await self._server.kill(cell.child)
            cell.book()
        cell.output.close()
        await asyncio.to_thread(shutil.rmtree, cell.scratch, True)


def _spec(
    name: str, role: Literal["evaluator", "candidate"], limits: Limits, scratch: Path, readable: tuple[str, ...]
) -> Spec:
    return Spec(
        id=name,
        role=role,
        scratch=str(scratch),
        readable=readable,
        memory=limits.memory_mb * MB,
        cpu=limits.cpu_seconds,
        processes=limits.processes,
        disk=limits.disk_mb * MB,
        files=limits.files,
    )
