"""Host roles in this process: connect, run, drain on SIGTERM."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import structlog

from evolvent import telemetry
from evolvent.ending import end
from evolvent.errors import EvolventError, Refused, Rejected
from evolvent.health import Health, answering
from evolvent.log import STREAM
from evolvent.platform import Platform, open_platform
from evolvent.provision import PULLED_BY
from evolvent.service import Runner, Service
from evolvent.settings import Settings
from evolvent.wire import PROVISION, Code, Wire

Factory = Callable[[Platform], Service[Any]]
LOOK_AGAIN = 0.5
"""Seconds between two looks at what a role waits for."""
_NO_PULL = {"batch": ""}
"""A pull that JetStream refuses as a bad request wherever one may be made, and that takes nothing."""
_PASSING = Code.UNKNOWN_OUTCOME | {Code.STREAM_NOT_FOUND, Code.CONSUMER_NOT_FOUND}
logger = structlog.get_logger()


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
        Forbidden: the bus user may not be one of the roles.
        ConsumerLost: a role's consumer was deleted.
        Refused: the health port is taken.
    """
    health = Health(len(roles), stop)
    async with answering(health, settings), open_platform(settings, "-".join(roles)) as platform:
        health.platform = platform
        services = [factory(role)(platform) for role in roles]
        runners = [Runner(platform, replace(each, running=health.noting(each.running))) for each in services]
        running = [asyncio.create_task(_run(runner, stop)) for runner in runners]
        stopping, telling = asyncio.create_task(stop.wait()), asyncio.create_task(_tell(health, roles))
        try:
            await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for runner in runners:
                runner.stop()
            await asyncio.gather(*running)
        finally:
            await end(*running, stopping, telling)


async def _run(runner: Runner[Any], stop: asyncio.Event) -> None:
    """Run one role as soon as the server delivers to it; say so while it does not."""
    role, told = runner.service.role, ""
    while not stop.is_set() and (missing := await _missing(runner.platform.wire, role)):
        if missing != told:
            await logger.awarning("role.waiting", role=role, reason=missing, mend=f"{PROVISION} makes the streams")
        told = missing
        await asyncio.sleep(LOOK_AGAIN)
    await runner.run()


async def _missing(wire: Wire, role: str) -> str:
    """Say why the server cannot deliver to a role yet; nothing if it can, or never will.

    Raises:
        Forbidden: the bus user may not be this role.
    """
    try:
        for name in (name for name, puller in PULLED_BY.items() if puller == role):
            await wire.api(f"CONSUMER.INFO.{STREAM}.{name}")
        await wire.api(f"CONSUMER.MSG.NEXT.{STREAM}.{role}", _NO_PULL)
    except (Rejected, TimeoutError) as error:
        return str(error) if isinstance(error, TimeoutError) or error.code in _PASSING else ""
    return ""


async def _tell(health: Health, roles: Sequence[str]) -> None:
    """Say when the roles are ready, where, and as whom."""
    while health.ready():  # noqa: ASYNC110 - many things together make it ready
        await asyncio.sleep(LOOK_AGAIN)
    assert health.platform is not None
    wire = health.platform.wire
    where = wire.client.connected_url
    server = f"nats://{where.hostname}:{where.port}" if where else None
    await logger.ainfo("roles.ready", roles=list(roles), user=wire.user, server=server)


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
