"""The evaluator's side of the candidate's container: sandboxes that are opened there and measured there."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolvent_engineer import wire
from evolvent_engineer.cells import Cell, Cells, Role
from evolvent_engineer.meters import Occupied, Usage
from evolvent_engineer.output import Output
from evolvent_engineer.server import Child, Exit, ForkServer, ServerError, receive
from evolvent_schemas.values import Limits

_CONNECT_SECONDS = 600.0
"""A candidate's image may be pulled later than the evaluator's."""
_SAY_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
_NOWHERE = Path("/nonexistent")


class Link:
    """The connection to the keeper. When it breaks, every child is taken for ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._requests = control.dup()
        self._requests.settimeout(_SAY_SECONDS)
        self._children: dict[str, Child] = {}
        self._used: dict[str, tuple[Usage, Occupied]] = {}
        self._gone = False
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, path: Path, fault: Path, patience: float = 0.0) -> "Link":
        """Wait for the keeper, `patience` seconds longer than it takes to come up alone.

        Raises:
            ServerError: it gave up, and left the reason at `fault`.
            TimeoutError: it did not come up.
        """
        loop = asyncio.get_running_loop()
        control = socket.socket(socket.AF_UNIX)
        control.setblocking(False)
        async with asyncio.timeout(_CONNECT_SECONDS + patience):
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    await loop.sock_connect(control, str(path))
                    return cls(control)
                _heed(fault)
                await asyncio.sleep(0.05)

    async def spawn(self, name: str, limits: Limits, channel: int, output: int, *, grouped: bool) -> Child:
        """Have a sandbox opened on these descriptors; the caller keeps and closes its copies.

        One that is `grouped` has the variables and the network of the experiment's group, if it is of several pods.

        Raises:
            ServerError: the keeper cannot, or is gone.
        """
        loop = asyncio.get_running_loop()
        child = self._children[name] = Child(name, loop.create_future(), loop.create_future())
        self._say({"open": name, "limits": limits.model_dump(), "grouped": grouped}, (channel, output))
        await self._answer(child.started)
        return child

    async def kill(self, child: Child) -> None:
        """End a sandbox and wait until it is gone. Idempotent."""
        with contextlib.suppress(ServerError):
            if not child.exited.done():
                self._say({"end": child.id})
                await self._answer(child.exited)

    def used(self, child: Child) -> tuple[Usage, Occupied]:
        """What the keeper measured last."""
        return self._used.get(child.id, (Usage(), Occupied(0, 0)))

    async def close(self) -> None:
        """Leave, at which the keeper ends whatever runs."""
        self._control.close()
        self._requests.close()
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)

    async def _answer(self, future: "asyncio.Future[Any]") -> None:
        done, _ = await asyncio.wait([future], timeout=_ANSWER_SECONDS)
        if not done:
            raise ServerError("the candidate's container does not answer")
        future.result()

    def _say(self, request: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        if self._gone:
            raise ServerError("the candidate's container is gone")
        try:
            self._requests.sendall(b"".join(wire.encode(request)))
            if descriptors:
                socket.send_fds(self._requests, [b"."], descriptors)
        except OSError as error:
            raise ServerError(f"the candidate's container is gone: {error}") from error

    async def _listen(self) -> None:
        try:
            while True:
                self._hear(await receive(self._control, limit=0))
        except (EOFError, OSError, wire.WireError) as error:
            self._gone = True
            for child in self._children.values():
                _fail(child, f"the candidate's container is gone: {error}")

    def _hear(self, event: Any) -> None:
        """Take one event; what is none of these, or of no sandbox, breaks the connection.

        Raises:
            WireError: the keeper does not keep to the protocol.
        """
        match event:
            case {"started": str(name)} if name in self._children:
                self._children[name].started.set_result(0)
            case {"refused": str(name), "why": str(why)} if name in self._children:
                _fail(self._children.pop(name), why)
            case {"used": str(name), "cpu": float(cpu), "memory": int(memory), "processes": int(count), **rest}:
                self._used[name] = Usage(cpu, memory, count, _gpu(rest)), _occupied(rest)
            case {"exited": str(name), "status": int(status), "cpu": float(cpu), "peak": int(peak), **rest} if (
                name in self._children
            ):
                self._used[name] = Usage(), _occupied(rest)
                self._children.pop(name).exited.set_result(Exit(status, cpu, peak))
            case other:
                raise wire.WireError(f"{other!r:.200} is no event")


def _heed(fault: Path) -> None:
    if fault.exists():
        raise ServerError(f"the candidate's container gave up: {fault.read_text()}")


def _occupied(rest: dict[Any, Any]) -> Occupied:
    match rest:
        case {"disk": int(disk), "files": int(files)}:
            return Occupied(disk, files)
        case other:
            raise wire.WireError(f"{other!r:.200} is no measurement")


def _gpu(rest: dict[Any, Any]) -> int:
    match rest:
        case {"gpu": int(gpu)}:
            return gpu
        case other:
            raise wire.WireError(f"{other!r:.200} says nothing of GPUs")


def _fail(child: Child, why: str) -> None:
    for future in (child.started, child.exited):
        if not future.done():
            future.set_exception(ServerError(why))
            future.exception()  # seen: nobody may be waiting any more


class RemoteCell(Cell):
    """A sandbox in the candidate's container; its number there means nothing here."""

    def __init__(self, link: Link, child: Child, output: Output) -> None:
        super().__init__(child, output, _NOWHERE, None)
        self._link = link

    def sample(self) -> Usage:
        usage, _ = self._link.used(self.child)
        self._cpu, self._peak = max(self._cpu, usage.cpu), max(self._peak, usage.memory)
        return usage

    def occupied(self, most: int) -> Occupied:  # noqa: ARG002 - the keeper counted
        return self._link.used(self.child)[1]


class PodCells(Cells):
    """Evaluators here, candidates in the other container."""

    def __init__(self, server: ForkServer, work: Path, tier: Any, link: Link) -> None:
        super().__init__(server, work, tier, cgroups=None, users=None)
        self._link = link

    async def open(
        self,
        name: str,
        role: Role,
        limits: Limits,
        overflowed: Callable[[int], None],
        *,
        bundle: str | None = None,
        grouped: bool = False,
    ) -> tuple[Cell, socket.socket]:
        if role == "evaluator":
            return await super().open(name, role, limits, overflowed, bundle=bundle)
        output = Output(limits.output_kb * 1024, overflowed)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                child = await self._link.spawn(name, limits, theirs.fileno(), output.write, grouped=grouped)
            output.begun()
        except BaseException:
            ours.close()
            output.close()
            raise
        ours.setblocking(False)
        return RemoteCell(self._link, child, output), ours

    async def end(self, cell: Cell) -> None:
        if not isinstance(cell, RemoteCell):
            await super().end(cell)
            return
        await self._link.kill(cell.child)
        cell.output.close()
        cell.remove()
