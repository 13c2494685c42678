"""The candidate's container: forks a fresh sandbox whenever the evaluator asks for one, and tells what it uses.

It takes exactly one connection, the evaluator's, and ends with it. With each `{"open": name, "limits": …, "grouped":
…}` come two descriptors, the sandbox's channel and its output, so that neither passes through here. A sandbox that is
grouped can reach those of the experiment's other pods, if there are any; no other has a network. It answers
`{"started": name}` or `{"refused": name, "why": …}`, then `{"used": name, …}` ten times a second, and at last
`{"exited": name, …}`, also after `{"end": name}`.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from glob import glob
from pathlib import Path
from typing import Any

from evolvent.errors import EvolventError
from evolvent_engineer import tiers, wire
from evolvent_engineer.cells import MB, users
from evolvent_engineer.confinement import Spec
from evolvent_engineer.gpus import Gpus
from evolvent_engineer.meters import ProcessMeter, occupied
from evolvent_engineer.pod.group import gather
from evolvent_engineer.pod.servers import fork_server
from evolvent_engineer.pod.settings import Keeping
from evolvent_engineer.server import Child, ForkServer, ServerError, receive
from evolvent_schemas.values import Limits

_SAMPLE_SECONDS = 0.1
_CONNECT_SECONDS = 120.0
"""An evaluator that has not come by then has failed: both start together, and from one image."""


async def keep() -> None:
    """Serve the evaluator until it goes; where that cannot be, tell it why, so that it does not wait.

    Raises:
        Refused, ServerError: no sandbox can be opened here.
        TimeoutError: another pod or the evaluator did not come.
    """
    settings = Keeping()
    try:
        await _serve(settings)
    except (EvolventError, ServerError, OSError) as error:
        settings.fault.write_text(str(error))
        raise


async def _serve(settings: Keeping) -> None:
    options = {"profile": settings.profile, "preload": settings.spec.preload, "devices": glob("/dev/nvidia*")}  # noqa: PTH207
    grouped = settings.pods > 1
    async with fork_server(settings.work, settings.sandbox, grouped=grouped, **options) as server:  # type: ignore[arg-type]
        group = await gather(settings) if grouped else None  # the evaluator's clock starts when it can connect
        gpus = Gpus()
        with await _evaluator(settings.socket) as control:
            await Keeper(server, settings.work, control, _users(settings), group=group, gpus=gpus).run()


def _users(settings: Keeping) -> Iterator[int] | None:
    root = os.geteuid() == 0  # in a pod never
    return users() if root and tiers.strangers_may_read(settings.sandbox, settings.work) else None


async def _evaluator(path: Path) -> socket.socket:
    """Wait for the one connection; afterwards nobody can connect any more."""
    with _listener(path) as listener:
        async with asyncio.timeout(_CONNECT_SECONDS):
            control, _ = await asyncio.get_running_loop().sock_accept(listener)
    os.unlink(path)  # noqa: PTH108 - a volume in memory does not block
    control.setblocking(False)
    return control


def _listener(path: Path) -> socket.socket:
    """Listen first and show the path then: whoever finds it can connect."""
    part = path.with_suffix(".part")
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(part))
    part.chmod(0o666)  # the evaluator is another user; only the two containers mount this volume
    listener.listen(1)
    part.rename(path)
    return listener


class Keeper:
    """The sandboxes of one experiment."""

    def __init__(
        self,
        server: ForkServer,
        work: Path,
        control: socket.socket,
        others: Iterator[int] | None,
        *,
        group: Mapping[str, str] | None,
        gpus: Gpus,
    ) -> None:
        self._server = server
        self._group = group
        self._work = work
        self._control = control
        self._users = others
        self._children: dict[str, Child] = {}
        self._saying = asyncio.Lock()
        self._gpus = gpus

    async def run(self) -> None:
        """Serve until the evaluator closes.

        Raises:
            ServerError: the fork server died.
        """
        keeping: set[asyncio.Task[None]] = set()
        listening = asyncio.create_task(self._listen(keeping))
        try:
            while not listening.done():
                done, _ = await asyncio.wait({listening, *keeping}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                keeping -= done
                for task in done - {listening}:
                    task.result()
            listening.result()
        except (EOFError, ConnectionError):
            pass
        finally:
            for task in {listening, *keeping}:
                task.cancel()
            await asyncio.gather(listening, *keeping, return_exceptions=True)

    async def _listen(self, keeping: set[asyncio.Task[None]]) -> None:
        while True:
            match await receive(self._control, limit=0):
                case {"open": str(name), "limits": dict(limits), "grouped": bool(grouped)}:
                    channel, output = await _descriptors(self._control)
                    group = self._group if grouped else None
                    keeping.add(asyncio.create_task(self._keep(name, Limits(**limits), group, channel, output)))
                case {"end": str(name)} if name in self._children:
                    await self._server.kill(self._children[name])

    async def _keep(
        self, name: str, limits: Limits, group: Mapping[str, str] | None, channel: int, output: int
    ) -> None:
        scratch = self._work / name
        try:
            spec = self._prepare(name, limits, group, scratch)
            child = self._children[name] = await self._server.spawn(spec, channel, output)
        except (ServerError, OSError) as error:
            await self._say({"refused": name, "why": str(error)})
            return
        finally:
            os.close(channel)
            os.close(output)
        meter = ProcessMeter(child.pid)
        await self._say({"started": name})
        while not child.exited.done():
            usage = replace(meter.sample(), gpu=self._gpus.used())
            await self._say({"used": name, **asdict(usage), **self._occupied(scratch, limits)})
            await asyncio.wait([child.exited], timeout=_SAMPLE_SECONDS)
        exited = child.exited.result()
        ended = {"status": exited.status, "cpu": exited.cpu, "peak": max(0, exited.peak - meter.inherited)}
        folder = self._occupied(scratch, limits)
        shutil.rmtree(scratch, ignore_errors=True)
        await self._say({"exited": name, **ended, **folder})

    def _prepare(self, name: str, limits: Limits, group: Mapping[str, str] | None, scratch: Path) -> Spec:
        user = next(self._users) if self._users is not None else None
        scratch.mkdir(mode=0o700)
        if user is not None:
            os.chown(scratch, user, user)
        return Spec(
            id=name,
            role="candidate",
            scratch=str(scratch),
            bundle=None,
            cgroups=(),
            user=user,
            memory=limits.memory_mb * MB,
            cpu=limits.cpu_seconds,
            processes=limits.processes,
            disk=limits.disk_mb * MB,
            files=limits.files,
            group=group,
        )

    def _occupied(self, scratch: Path, limits: Limits) -> dict[str, int]:
        return asdict(occupied(scratch, most=limits.files))

    async def _say(self, event: dict[str, Any]) -> None:
        async with self._saying:
            await asyncio.get_running_loop().sock_sendall(self._control, b"".join(wire.encode(event)))


async def _descriptors(control: socket.socket) -> tuple[int, int]:
    """Take the two descriptors that follow a frame on one byte of their own."""
    while True:
        try:
            _, (channel, output), _, _ = socket.recv_fds(control, 1, 2)
        except BlockingIOError:
            await _readable(control)
        else:
            return channel, output


async def _readable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(control, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(control)
