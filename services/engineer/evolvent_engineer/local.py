"""The local backend: experiments in forked, confined processes on this machine."""

import asyncio
import shutil
import sys
from pathlib import Path

from evolvent.errors import Refused
from evolvent_engineer import source
from evolvent_engineer.backend import Experiment, Failed, Outcome
from evolvent_engineer.cells import Cells
from evolvent_engineer.confinement import Settings
from evolvent_engineer.running import Evaluation
from evolvent_engineer.server import ForkServer, ServerError
from evolvent_schemas.values import SandboxTier

_Key = tuple[str, tuple[str, ...]]


class LocalBackend:
    """Runs experiments with one pre-warmed fork server for each profile and set of preloaded modules."""

    def __init__(
        self, work: Path, *, allow_unsafe: bool, preload: tuple[str, ...] = (), tier: SandboxTier | None = None
    ) -> None:
        """Prepare a backend; nothing runs yet.

        Args:
            work: a folder of its own, for scratch; what is in it is removed at the start.
            allow_unsafe: go on with tier T3, which is no boundary, where no better one can be had.
            preload: modules that every fork server imports beside the task's own.
            tier: ask for this tier instead of the best there is.
        """
        self._work = work
        self._allow_unsafe = allow_unsafe
        self._preload = preload
        self._wanted = tier
        self._tier: SandboxTier | None = None
        self._servers: dict[_Key, ForkServer] = {}
        self._starting = asyncio.Lock()
        self._running: set[asyncio.Task[Outcome]] = set()
        self._count = 0

    @property
    def tier(self) -> SandboxTier:
        assert self._tier is not None, "start comes first"
        return self._tier

    async def start(self) -> None:
        self._tier = self._wanted or "T3"
        if self._tier == "T3" and not self._allow_unsafe:
            raise Refused(
                "only sandbox tier T3 is to be had here, and it is no boundary: a candidate could read and change "
                "whatever you can. Pass --allow-unsafe-sandbox to go on; `evolvent doctor` says what is missing"
            )
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)

    async def evaluate(self, experiment: Experiment) -> Outcome:
        if fault := source.fault(experiment.files, experiment.program):
            return Failed("static_check", fault)
        task = asyncio.create_task(self._evaluate(experiment))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _evaluate(self, experiment: Experiment) -> Outcome:
        try:
            server = await self._server(experiment)
        except ServerError as error:
            return Failed("infrastructure", str(error))
        return await Evaluation(experiment, Cells(server, self._work)).run()

    async def _server(self, experiment: Experiment) -> ForkServer:
        """Find the server for an experiment; start one where there is none or it has died."""
        profile = experiment.stage.profile
        preload = tuple(dict.fromkeys((*self._preload, *experiment.program.preload)))
        async with self._starting:
            server = self._servers.get((profile, preload))
            if server is None or server.dead:
                self._count += 1
                settings = Settings(self.tier, profile, preload, _readable())
                server = await ForkServer.start(settings, self._work / f"server-{self._count}.log")
                self._servers[profile, preload] = server
            return server

    async def close(self) -> None:
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running))
        for server in self._servers.values():
            await server.close()
        self._servers.clear()
        shutil.rmtree(self._work, ignore_errors=True)


def _readable() -> tuple[str, ...]:
    """List what any program needs to read: the system's libraries and the interpreter with its packages."""
    system = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
    return tuple(dict.fromkeys((*system, sys.base_prefix, sys.prefix)))
