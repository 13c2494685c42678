"""Host roles in this process: connect, run, drain on SIGTERM."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from evolvent import telemetry
from evolvent.ending import end
from evolvent.errors import EvolventError, Refused
from evolvent.health import Health, answering
from evolvent.platform import Platform, open_platform
from evolvent.service import Runner, Service
from evolvent.settings import Settings

Factory = Callable[[Platform], Service[Any]]


def factory(role: str) -> Factory:
    """Find a role by its entry point.

    Raises:
        Refused: nothing installed has the name.
    """
    found = {entry.name: entry for entry in entry_points(group="evolvent.services")}
    if role not in found:
        raise Refused(f"there is no role {role!r}; there are {', '.join(sorted(found))}")
    loaded: Factory = found[role].load()
    return loaded


async def serve(settings: Settings, roles: Sequence[str], stop: asyncio.Event) -> None:
    """Run one replica of each role on one connection until `stop` is set, then finish what is in work.

    Raises:
        Unreachable: the server does not answer.
        ConsumerLost: a role's consumer was deleted.
        Refused: the health port is taken.
    """
    health = Health(len(roles), stop)
    async with answering(health, settings), open_platform(settings, "-".join(roles)) as platform:
        health.platform = platform
        services = [factory(role)(platform) for role in roles]
        runners = [Runner(platform, replace(each, running=health.noting(each.running))) for each in services]
        running = [asyncio.create_task(runner.run()) for runner in runners]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for runner in runners:
                runner.stop()
            await asyncio.gather(*running)
        finally:
            await end(*running, stopping)


@contextlib.asynccontextmanager
async def hosted(settings: Settings, roles: Sequence[str]) -> AsyncIterator[asyncio.Task[None]]:
    """Host one replica of each role for as long as the block lasts; the task ends only when one of them fails."""
    stop = asyncio.Event()
    working = asyncio.create_task(serve(settings, roles, stop))
    try:
        yield working
    finally:
        stop.set()
        await asyncio.gather(working, return_exceptions=True)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT end the work in hand instead of cutting it off."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _main(role: str) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    await serve(Settings(), [role], stop)


def main(role: str) -> None:
    """Run one replica of a role as this process; settings come from the environment."""
    telemetry.to_stderr()
    try:
        asyncio.run(_main(role))
    except EvolventError as error:
        sys.exit(f"{role}: {error}")
