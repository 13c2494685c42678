"""The engineer's end of a fork server: starts it, asks it for children, hears of their ends."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolvent_engineer import wire
from evolvent_engineer.confinement import Settings, Spec

_EVENT_LIMIT = 0
_REQUEST_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
"""A fork takes milliseconds; a server that needs longer than this is stopped or thrashing."""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""All that the server and its children inherit. One thread each: a server with threads cannot fork safely."""


class ServerError(Exception):
    """The fork server could not start, or is gone."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended."""

    status: int
    """As `os.wait` gives it."""
    cpu: float
    """Seconds, user and system, of the child and what it waited for."""
    peak: int
    """Largest resident set, in bytes, what the server had loaded included."""


@dataclass(slots=True)
class Child:
    """A forked process."""

    id: str
    started: asyncio.Future[int]
    exited: asyncio.Future[Exit]

    @property
    def pid(self) -> int:
        return self.started.result()


async def receive(channel: socket.socket, *, limit: int) -> Any:
    """Receive one frame from a non-blocking socket.

    Raises:
        EOFError: the other side closed.
        WireError: what came is no frame, or larger than allowed.
    """
    header, buffers = wire.measure(bytes(await _exactly(channel, wire.PREFIX_SIZE)), limit)
    return wire.decode(await _exactly(channel, header), await _exactly(channel, buffers))


async def _exactly(channel: socket.socket, length: int) -> bytearray:
    content = bytearray()
    while len(content) < length:
        piece = await asyncio.get_running_loop().sock_recv(channel, min(length - len(content), 1 << 20))
        if not piece:
            raise EOFError("the channel was closed")
        content += piece
    return content


class ForkServer:
    """One running fork server. When it dies, every child of it has ended and `dead` is set."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._requests = control.dup()
        self._requests.settimeout(_REQUEST_SECONDS)
        self._children: dict[str, Child] = {}
        self._listener = asyncio.create_task(self._listen())
        self.dead = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, settings: Settings, errors: Path) -> "ForkServer":
        """Start a server and wait until it has imported everything.

        Raises:
            ServerError: a module could not be imported or started threads, or the tier could not be prepared.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, errors.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "evolvent_engineer.forkserver", json.dumps(asdict(settings))),
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        try:
            fault = (await receive(ours, limit=_EVENT_LIMIT))["fault"]
        except (EOFError, OSError):
            await _end(process, ours)
            fault = f"the fork server ended at its start: {await asyncio.to_thread(_tail, errors)}"
        except BaseException:
            await _end(process, ours)
            ours.close()
            raise
        if fault is not None:
            await _end(process, ours)
            ours.close()
            raise ServerError(fault)
        return cls(process, ours)

    async def spawn(self, spec: Spec, channel: int, output: int) -> Child:
        """Fork a child with a channel and an output pipe; the caller keeps and closes its copies.

        Raises:
            ServerError: the server is gone.
        """
        loop = asyncio.get_running_loop()
        child = Child(spec.id, loop.create_future(), loop.create_future())
        self._children[spec.id] = child
        self._request({"spawn": asdict(spec)}, (channel, output))
        try:
            await self._answer(child.started)
        except asyncio.CancelledError:
            await self.kill(child)
            raise
        return child

    async def kill(self, child: Child) -> None:
        """End a child and wait until it is gone. Idempotent."""
        if not child.exited.done():
            with contextlib.suppress(ServerError):
                self._request({"kill": child.id})
            with contextlib.suppress(ServerError):
                await self._answer(child.exited)

    async def _answer(self, future: asyncio.Future[Any]) -> None:
        """Wait for what the server will say; one that says nothing is killed, and all its children die with it.

        Raises:
            ServerError: the server is gone.
        """
        done, _ = await asyncio.wait([future], timeout=_ANSWER_SECONDS)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await asyncio.wait([future])
        future.result()

    async def close(self) -> None:
        """End the server and all its children. Idempotent."""
        await _end(self._process, self._control)
        await asyncio.wait([self._listener])

    def _request(self, request: object, descriptors: Sequence[int] = ()) -> None:
        """Send at once: a request is smaller than the socket's buffer, and a cancelled one would leave half a frame."""
        if self.dead:
            raise ServerError("the fork server is gone")
        try:
            self._requests.sendall(b"".join(wire.encode(request)))
            if descriptors:
                socket.send_fds(self._requests, [b"."], descriptors)
        except OSError as error:
            raise ServerError(f"the fork server is gone: {error}") from error

    async def _listen(self) -> None:
        try:
            while True:
                self._heard(await receive(self._control, limit=_EVENT_LIMIT))
        except (EOFError, OSError, wire.WireError):
            self.dead = True
            await self._process.wait()
            for child in self._children.values():
                _fail(child, ServerError("the fork server died"))
            self._children.clear()
            self._control.close()
            self._requests.close()

    def _heard(self, event: Any) -> None:
        match event:
            case {"started": name, "pid": pid}:
                self._children[name].started.set_result(pid)
            case {"exited": name, "status": status, "cpu": cpu, "peak": peak}:
                self._children.pop(name).exited.set_result(Exit(status, cpu, peak))


def _tail(errors: Path) -> str:
    return errors.read_text(errors="replace")[-2000:]


def _fail(child: Child, error: ServerError) -> None:
    for future in (child.started, child.exited):
        if not future.done():
            future.set_exception(error)
            future.exception()  # seen: nobody may be waiting any more


async def _end(process: asyncio.subprocess.Process, control: socket.socket) -> None:
    """Close the control socket, at which a server ends its children and itself; kill one that does not."""
    with contextlib.suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()
