"""The local backend: experiments in forked, confined processes on this machine."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from evolvent.errors import Permanent, Refused
from evolvent_engineer import source, tiers
from evolvent_engineer.backend import Experiment, Failed, Outcome, pods_of
from evolvent_engineer.cells import Cells, users
from evolvent_engineer.cgroups import Cgroups
from evolvent_engineer.confinement import Settings
from evolvent_engineer.running import Evaluation
from evolvent_engineer.server import ForkServer, ServerError
from evolvent_schemas.values import SandboxTier, Stage

_Key = tuple[str, tuple[str, ...]]


class LocalBackend:
    """Runs experiments with one pre-warmed fork server for each profile and set of preloaded modules."""

    def __init__(
        self,
        work: Path,
        *,
        allow_unsafe: bool,
        preload: tuple[str, ...] = (),
        tier: SandboxTier | None = None,
        devices: tuple[str, ...] = (),
    ) -> None:
        """Prepare a backend; nothing runs yet.

        Args:
            work: a folder of its own, for scratch; what is in it is removed at the start.
            allow_unsafe: go on with tier T3, which is no boundary, where no better one can be had.
            preload: modules that every fork server imports beside the task's own.
            tier: ask for this tier instead of the best there is.
            devices: device files that candidates may use, for example `/dev/nvidia0`.
        """
        self._work = work
        self._allow_unsafe = allow_unsafe
        self._preload = preload
        self._wanted = tier
        self._devices = devices
        self._tier: SandboxTier | None = None
        self._servers: dict[_Key, ForkServer] = {}
        self._starting = asyncio.Lock()
        self._cgroups: Cgroups | None = None
        self._users: Iterator[int] | None = None
        self._running: set[asyncio.Task[Outcome]] = set()
        self._count = 0

    @property
    def tier(self) -> SandboxTier:
        assert self._tier is not None, "start comes first"
        return self._tier

    async def start(self) -> None:
        self._tier = tier = await asyncio.to_thread(self._choose)
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True, mode=0o711)
        if tier == "T1":
            self._cgroups = Cgroups()
        if os.geteuid() == 0 and tiers.strangers_may_read(tier, self._work):
            self._users = users()

    def _choose(self) -> SandboxTier:
        """Take the tier that was asked for, or the best there is.

        Raises:
            Refused: it is not to be had, or it is T3 and that was not allowed.
        """
        if self._wanted is not None and (obstacle := tiers.obstacle(self._wanted)):
            raise Refused(f"sandbox tier {self._wanted} is not to be had here: {obstacle}")
        tier = self._wanted or tiers.probe().tier
        if tier == "T3" and not self._allow_unsafe:
            raise Refused(
                "sandbox tier T3 is no boundary: a candidate could read and change whatever you can. "
                "`evolvent doctor` says what keeps a better one away; --allow-unsafe-sandbox goes on without"
            )
        return tier

    async def evaluate(self, experiment: Experiment) -> Outcome:
        """Run one experiment.

        Raises:
            Permanent: its stage trains on several pods, which one machine does not have.
        """
        _require_one_pod(experiment.stage)
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
        cells = Cells(server, self._work, self.tier, cgroups=self._cgroups, users=self._users)
        return await Evaluation(experiment, cells).run()

    async def _server(self, experiment: Experiment) -> ForkServer:
        """Find the server for an experiment; start one where there is none or it has died."""
        profile = experiment.stage.profile
        preload = tuple(dict.fromkeys((*self._preload, *experiment.program.preload)))
        async with self._starting:
            server = self._servers.get((profile, preload))
            if server is None or server.dead:
                self._count += 1
                root = self._work / f"root-{self._count}"
                root.mkdir()
                settings = Settings(self.tier, profile, preload, tiers.system(), str(root), self._devices)
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
        if self._cgroups is not None:
            self._cgroups.close()
        shutil.rmtree(self._work, ignore_errors=True)


def _require_one_pod(stage: Stage) -> None:
    try:
        pods = pods_of(stage)
    except Refused as error:
        raise Permanent(str(error)) from error
    if pods > 1:
        raise Permanent(
            f"stage {stage.name} asks for pods = {pods}, and the local backend has one machine: set pods = 1 in "
            "the stage's settings, or run the engineer with EVOLVENT_ENGINEER_BACKEND=kubernetes"
        )
