"""Where a command finds its server: the one embedded in the home, started here, or one that already runs."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from evolvent.children import spawn
from evolvent.embedded import HomeTaken, embedded, lock_home
from evolvent.ending import end
from evolvent.errors import Unreachable
from evolvent.models.settings import MODEL_KEYS
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.serve import hosted
from evolvent.settings import Settings

T = TypeVar("T")
GRACE = 10.0
"""Seconds a role has to finish what is in work after SIGTERM."""
logger = structlog.get_logger()


class HostGone(Unreachable):
    """The process that served this home has ended; its home can be taken."""


@contextlib.asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[Platform]:
    """Open the log for a command that hosts no role: on the server that runs, or on one started for the command.

    Raises:
        Unreachable: a server is named and does not answer.
    """
    async with contextlib.AsyncExitStack() as stack:
        if settings.nats_url is None:
            with contextlib.suppress(HomeTaken):
                await stack.enter_async_context(embedded(settings))
        yield await stack.enter_async_context(attached(settings))


def served(settings: Settings) -> bool:
    """Tell whether a process has the home; a server elsewhere may be served from anywhere, so that is taken for one.

    Raises:
        Refused: the home cannot be used.
    """
    if settings.nats_url is None:
        with contextlib.suppress(HomeTaken):
            os.close(lock_home(settings.home))
            return False
    return True


@contextlib.asynccontextmanager
async def attached(settings: Settings) -> AsyncIterator[Platform]:
    """Connect to a server that runs, waiting a moment for one that is just starting."""
    deadline = asyncio.get_running_loop().time() + 10
    while settings.nats_url is None and not (settings.home / "server.json").exists():
        if asyncio.get_running_loop().time() > deadline:
            settings.endpoint()
        await asyncio.sleep(0.05)
    async with open_platform(settings, "command") as platform:
        yield platform


@contextlib.asynccontextmanager
async def hosting(settings: Settings, *, processes: bool) -> AsyncIterator[asyncio.Task[None]]:
    """Host every role; the task ends only when a role cannot go on.

    Raises:
        HomeTaken: another process serves this home.
    """
    async with contextlib.AsyncExitStack() as stack:
        if settings.nats_url is None:
            await stack.enter_async_context(embedded(settings))
        work = supervised(settings, ROLES) if processes else hosted(settings, ROLES)
        yield await stack.enter_async_context(work)


@dataclass(frozen=True)
class Tenure:
    """A platform, for as long as one process serves the home."""

    platform: Platform
    over: "asyncio.Future[None]"
    """Ends, with the reason, when the roles that carry the home's runs cannot go on."""
    ours: bool
    """Whether the roles are hosted by this process."""


async def carry(settings: Settings, work: Callable[[Tenure], Awaitable[T]], *, processes: bool) -> T:
    """Do some work while the home is served: by roles hosted here, or by the process that had it first.

    When that one ends, `work`, which raises what ended its tenure, is called again on roles hosted here.
    """
    while True:
        with contextlib.suppress(HomeTaken):
            async with hosting(settings, processes=processes) as roles, attached(settings) as platform:
                return await work(Tenure(platform, roles, ours=True))
        with contextlib.suppress(HostGone):
            async with attached(settings) as platform, _watched(settings) as gone:
                return await work(Tenure(platform, gone, ours=False))


@contextlib.asynccontextmanager
async def _watched(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Watch for the end of the process that serves a home."""
    gone = asyncio.create_task(_host_gone(settings))
    try:
        yield gone
    finally:
        await end(gone)


async def _host_gone(settings: Settings) -> None:
    while True:
        await asyncio.sleep(0.5)
        with contextlib.suppress(HomeTaken):
            os.close(lock_home(settings.home))
            raise HostGone(f"the process that served {settings.home} has ended; do it again")


@dataclass
class _Child:
    """One role as a process of its own, started again whenever it dies."""

    settings: Settings
    role: str
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False
    restarts: int = field(default=0)

    async def keep(self) -> None:
        delay = 0.1
        while not self.stopping:
            began = asyncio.get_running_loop().time()
            await self._start()
            assert self.process is not None
            code = await self.process.wait()
            if self.stopping:
                return
            self.restarts += 1
            await logger.aerror("role.died", role=self.role, code=code, restarts=self.restarts)
            lived = asyncio.get_running_loop().time() - began
            delay = 0.1 if lived > 5 else min(delay * 2, 5.0)
            await asyncio.sleep(delay)

    async def _start(self) -> None:
        path = self.settings.home / "logs" / f"{self.role}.jsonl"
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            command = [sys.executable, "-m", f"evolvent_{self.role}"]
            self.process = await spawn(
                command, stdout=output, stderr=output, env=_environment(self.settings, self.role)
            )
        finally:
            os.close(output)

    async def stop(self) -> None:
        self.stopping = True
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _environment(settings: Settings, role: str) -> dict[str, str]:
    """Hand the settings on to a role, as it would find them on any machine; beside candidates stands no model's key."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    values["home"] = str(settings.home.resolve())
    if settings.nats_url is not None:
        to = settings.endpoint()
        values |= {"nats_token": to.token, "nats_password": to.password}
    values["health_port"] = 0  # one port cannot serve five processes
    kept = {name: value for name, value in os.environ.items() if role != "engineer" or name not in MODEL_KEYS}
    return kept | {f"EVOLVENT_{name.upper()}": str(value) for name, value in values.items() if value is not None}


@contextlib.asynccontextmanager
async def supervised(settings: Settings, roles: Sequence[str]) -> AsyncIterator[asyncio.Task[None]]:
    """Host each role as a process of its own and start it again when it dies."""
    children = [_Child(settings, role) for role in roles]
    keeping = [asyncio.create_task(child.keep()) for child in children]
    everything = asyncio.ensure_future(asyncio.gather(*keeping))
    try:
        yield asyncio.create_task(_wait(everything))
    finally:
        await asyncio.gather(*(child.stop() for child in children))
        everything.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await everything


async def _wait(everything: "asyncio.Future[list[None]]") -> None:
    await asyncio.shield(everything)
