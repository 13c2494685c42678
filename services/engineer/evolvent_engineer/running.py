"""One evaluation: an evaluator, the sandboxes it asks for, and the limits kept from outside."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, get_args

from evolvent_engineer import wire
from evolvent_engineer.backend import Completed, Experiment, Failed, Outcome
from evolvent_engineer.cells import Cell, Cells
from evolvent_engineer.evaluator import Assignment
from evolvent_engineer.meters import Usage
from evolvent_engineer.progress import reported
from evolvent_engineer.server import Exit, ServerError, receive
from evolvent_schemas.values import FailureReason, Limits

MB = 1024 * 1024
_EVALUATOR_SECONDS = 5.0
"""An evaluator may take this much, and as long as the candidate may, beyond the candidate's deadline."""
_EVALUATOR_LIMITS = Limits(memory_mb=4096, processes=64, disk_mb=256, output_kb=1024)
"""The task author's own process; generous, so that only a broken one meets them."""
_SAMPLE_SECONDS = 0.05
_REPORT_SAMPLES = 40
"""Progress is told once in so many samples, every two seconds."""
_EXIT_SECONDS = 2.0
_REPORT_LIMIT = 0
_REASONS = frozenset(get_args(FailureReason))


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that was found exceeded from outside."""

    reason: FailureReason
    message: str
    measured: dict[str, float]


class Evaluation:
    """Runs one experiment to its one outcome."""

    def __init__(self, experiment: Experiment, cells: Cells) -> None:
        self._experiment = experiment
        self._limits = experiment.stage.limits
        self._cells = cells
        self._sandboxes: dict[int, Cell] = {}
        self._first: asyncio.Task[socket.socket] | None = None
        self._breach: asyncio.Future[Breach] = asyncio.get_running_loop().create_future()
        self._began = time.monotonic()
        self._gpu = 0
        self.failed_at: float | None = None
        """When a failure was first seen, on `time.monotonic`; what followed from it on other machines came later."""

    async def run(self) -> Outcome:
        """Evaluate; whatever was started has ended and is removed when this returns or is cancelled."""
        try:
            async with self._evaluator() as (evaluator, control):
                report = await self._settled(evaluator, control)
                return await self._outcome(report, evaluator)
        except (ServerError, OSError) as error:
            return self._failed("infrastructure", str(error))

    @asynccontextmanager
    async def _evaluator(self) -> AsyncIterator[tuple[Cell, socket.socket]]:
        limits = _EVALUATOR_LIMITS.model_copy(
            update={"memory_mb": max(_EVALUATOR_LIMITS.memory_mb, 4 * self._limits.memory_mb), "cpu_seconds": 86400}
        )
        name, bundle = f"{self._experiment.id}.evaluator", str(self._experiment.bundle)
        cell, control = await self._cells.open(name, "evaluator", limits, _ignore, bundle=bundle)
        self._first = asyncio.create_task(self._prepare(0))  # nearly all evaluators want one, and soon
        try:
            yield cell, control
        finally:
            control.close()
            await asyncio.shield(asyncio.gather(self._abandon(), self._cells.end(cell)))

    async def _settled(self, evaluator: Cell, control: socket.socket) -> dict[str, Any]:
        """Converse until the evaluator reports, a limit is broken, or the evaluator itself takes too long."""
        talk, watch = asyncio.create_task(self._converse(control)), asyncio.create_task(self._watch())
        try:
            seconds = 2 * self._limits.wall_seconds + _EVALUATOR_SECONDS
            first: set[asyncio.Future[Any]] = {talk, watch, self._breach}
            await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._breach.done():
                return {"failed": asdict(self._breach.result())}
            if watch.done():
                watch.result()
            return talk.result() if talk.done() else _crash(f"evaluate did not end within {seconds:g} s")
        except (EOFError, OSError) as error:
            return _crash(f"the evaluator ended before it reported: {await _ending(evaluator)} ({error})")
        except wire.WireError as error:
            return _crash(f"the evaluator did not report: {error}")
        finally:
            for task in (talk, watch):
                task.cancel()
            await asyncio.gather(talk, watch, return_exceptions=True)

    async def _converse(self, control: socket.socket) -> dict[str, Any]:
        await asyncio.get_running_loop().sock_sendall(control, b"".join(wire.encode(asdict(self._assignment()))))
        while True:
            message = await receive(control, limit=_REPORT_LIMIT)
            if isinstance(message, dict) and "failed" in message:
                self._note()
            match message:
                case {"open": int(number)} if number == 0 or number not in self._sandboxes:
                    await self._open(number, control)
                case {"close": int(number)} if number in self._sandboxes:
                    await self._end(self._sandboxes[number])
                case {"completed": {self._experiment.metric: float()}} as report:
                    return dict(report)
                case {"failed": {"reason": "ended", "sandbox": int(number)}} if number in self._sandboxes:
                    return await self._explained(self._sandboxes[number])
                case {"failed": {"reason": reason, "message": str(), "measured": dict()}} as report if (
                    reason in _REASONS
                ):
                    return dict(report)
                case other:
                    raise wire.WireError(f"{other!r:.200} is no report")

    def _assignment(self) -> Assignment:
        experiment = self._experiment
        return Assignment(
            bundle=self._cells.bundle(experiment.bundle),
            files=dict(experiment.files),
            entry=experiment.program.entry,
            settings=dict(experiment.stage.settings),
            seed=experiment.seed,
            metric=experiment.metric,
            deadline=self._began + self._limits.wall_seconds,
            frame_limit=self._limits.memory_mb * MB,
            parameters=experiment.stage.parameters,
            threads=min(self._limits.processes + 1, os.cpu_count() or 1),
        )

    async def _open(self, number: int, control: socket.socket) -> None:
        """Hand the channel of a sandbox to the evaluator."""
        assert self._first is not None
        with await (self._first if number == 0 else self._prepare(number)) as channel:
            socket.send_fds(control, [b"."], [channel.fileno()])

    async def _prepare(self, number: int) -> socket.socket:
        """Open a sandbox with what is left of the CPU time, and return its channel.

        Only the first, the one that trains, has peers: what another pod could tell a later one would reach the score
        beside the arrays that are counted.
        """
        used = sum(cell.cpu for cell in self._sandboxes.values())
        limits = self._limits.model_copy(update={"cpu_seconds": max(0.01, self._limits.cpu_seconds - used)})
        name = f"{self._experiment.id}.{number}"
        try:
            cell, channel = await self._cells.open(name, "candidate", limits, self._overflowed, grouped=number == 0)
        except OSError as error:
            raise ServerError(f"cannot open a sandbox: {error}") from error
        self._sandboxes[number] = cell
        return channel

    async def _explained(self, cell: Cell) -> dict[str, Any]:
        """Wait for the end of a sandbox that did not answer, and name it."""
        exited = await cell.wait(_EXIT_SECONDS)
        await self._end(cell)
        return {"failed": asdict(_explained(cell, exited, self._limits))}

    async def _abandon(self) -> None:
        """End every sandbox, the first one's opening included."""
        assert self._first is not None
        self._first.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServerError, OSError):
            (await self._first).close()
        await asyncio.gather(*(self._cells.end(cell) for cell in self._sandboxes.values()))

    async def _end(self, cell: Cell) -> None:
        """End a sandbox, and look once more for what it broke since the last sample."""
        if cell.ended:
            return
        await self._check_folder(cell)
        await self._cells.end(cell)
        if cell.starved:
            self._broken("memory_limit", "memory", cell.peak / MB, self._limits.memory_mb, "MiB")
        self._check(Usage(cell.cpu, cell.peak))

    def _overflowed(self, size: int) -> None:
        limit = self._limits.output_kb * 1024
        self._broken("output_limit", "output", size, limit, "bytes")

    def _broken(self, reason: FailureReason, what: str, found: float, limit: float, unit: str) -> None:
        self._note()
        if not self._breach.done():
            message = f"{what} reached {found:g} {unit}; the limit is {limit:g}"
            self._breach.set_result(Breach(reason, message, _of(found, limit)))

    def _note(self) -> None:
        self.failed_at = self.failed_at or time.monotonic()

    async def _watch(self) -> None:
        """Sample every sandbox until cancelled.

        Raises:
            OSError: it cannot, and an experiment without limits must not go on.
        """
        count = 0
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            count += 1
            for cell in [cell for cell in self._sandboxes.values() if not cell.ended]:
                usage = cell.sample()
                self._check(usage)
                self._gpu = usage.gpu
                if count % 5 == 0:
                    await self._check_folder(cell)
            if count % _REPORT_SAMPLES == 0 and self._experiment.report is not None:
                measured = self._used() | ({"gpu_memory_mb": self._gpu / MB} if self._gpu else {})
                await self._experiment.report(reported(self._output()) | measured)

    def _check(self, usage: Usage) -> None:
        limits, cpu = self._limits, sum(cell.cpu for cell in self._sandboxes.values())
        if cpu > limits.cpu_seconds:
            self._broken("cpu_limit", "cpu", cpu, limits.cpu_seconds, "s")
        if usage.memory > limits.memory_mb * MB:
            self._broken("memory_limit", "memory", usage.memory / MB, limits.memory_mb, "MiB")
        if usage.processes > limits.processes:
            self._broken("process_limit", "processes", usage.processes, limits.processes, "beside the first")

    async def _check_folder(self, cell: Cell) -> None:
        found = await asyncio.to_thread(cell.occupied, self._limits.files)
        if found.disk > self._limits.disk_mb * MB:
            self._broken("disk_limit", "disk", found.disk / MB, self._limits.disk_mb, "MiB")
        if found.files > self._limits.files:
            self._broken("file_limit", "files", found.files, self._limits.files, "files")

    async def _outcome(self, report: dict[str, Any], evaluator: Cell) -> Outcome:
        """Turn the report into the outcome, once the sandboxes have ended and their usage is known."""
        await asyncio.gather(self._cells.end(evaluator), *(self._end(each) for each in self._sandboxes.values()))
        if self._breach.done():
            report = {"failed": asdict(self._breach.result())}
        if "completed" in report:
            return self._completed(report["completed"])
        failed = report["failed"]
        if failed["reason"] == "wall_limit":
            failed["measured"] = _of(time.monotonic() - self._began, self._limits.wall_seconds)
        if failed["reason"] == "evaluator_crashed" and (text := evaluator.output.text()):
            failed["message"] += f"\n--- the evaluator printed ---\n{text}"
        return self._failed(failed["reason"], failed["message"], failed["measured"])

    def _completed(self, metrics: dict[str, float]) -> Completed:
        return Completed(score=metrics[self._experiment.metric], metrics=metrics, output=self._output(), **self._used())

    def _failed(self, reason: FailureReason, message: str, measured: dict[str, float] | None = None) -> Failed:
        return Failed(reason, message, measured or {}, output=self._output(), **self._used())

    def _output(self) -> str:
        return "".join(cell.output.text() for cell in self._sandboxes.values())

    def _used(self) -> dict[str, float]:
        cells = self._sandboxes.values()
        return {
            "wall_seconds": time.monotonic() - self._began,
            "cpu_seconds": sum(cell.cpu for cell in cells),
            "memory_mb": max((cell.peak / MB for cell in cells), default=0.0),
        }


def _ignore(size: int) -> None:
    """Drop what an evaluator prints beyond its limit: it blocks there and its own deadline ends it."""


def _crash(message: str) -> dict[str, Any]:
    return {"failed": {"reason": "evaluator_crashed", "message": message, "measured": {}}}


async def _ending(cell: Cell) -> str:
    exited = await cell.wait(_EXIT_SECONDS)
    return "it closed its channel" if exited is None else _status(exited)


def _status(exited: Exit) -> str:
    code = os.waitstatus_to_exitcode(exited.status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"


def _explained(cell: Cell, exited: Exit | None, limits: Limits) -> Breach:
    """Name why a candidate's process ended before it answered, or that it did not even end."""
    if exited is None:
        return Breach("crashed", "the candidate closed its channel", {})
    killer = -os.waitstatus_to_exitcode(exited.status)
    if killer == signal.SIGXCPU or (killer == signal.SIGKILL and cell.cpu >= limits.cpu_seconds):
        return Breach("cpu_limit", f"{cell.cpu:.2f} s of CPU time", _of(cell.cpu, limits.cpu_seconds))
    if killer == signal.SIGXFSZ:
        return Breach("disk_limit", "a file grew beyond the limit", _of(limits.disk_mb, limits.disk_mb))
    return Breach("crashed", f"the candidate's process ended before it answered: {_status(exited)}", {})


def _of(found: float, limit: float) -> dict[str, float]:
    return {"found": found, "limit": limit}
