"""Real nats-servers of a test's own making: one with a configuration, or three that form a cluster."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from evolvent.children import spawn
from evolvent.embedded import binary
from evolvent.errors import Rejected, Unreachable
from evolvent.provision import provision
from evolvent.settings import Settings
from evolvent.wire import connect


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Node:
    """One nats-server that can be killed and started again on its store."""

    folder: Path
    port: int
    extra: str = ""
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        conf = self.folder / "server.conf"
        conf.write_text(
            f"server_name: {self.folder.name}\nlisten: 127.0.0.1:{self.port}\n"
            f"jetstream {{ store_dir: {self.folder / 'store'} }}\n{self.extra}\n"
        )
        with (self.folder / "server.log").open("ab") as output:
            self.process = await spawn([binary(), "-c", str(conf)], stdout=output, stderr=output)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Cluster:
    """Three nodes; each of them can be lost."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(nats_url=self.nodes[0].url, replicas=3, ack_wait=2.0)


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Start three nodes and make the streams with three copies each."""
    ports, routes = free_ports(3), free_ports(3)
    peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    nodes = [
        Node(folder / f"n{index}", port, f"cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{peers}] }}")
        for index, (port, route) in enumerate(zip(ports, routes, strict=True))
    ]
    try:
        for node in nodes:
            await node.start()
        found = Cluster(nodes)
        await _settled(found.settings)
        yield found
    finally:
        for node in nodes:
            await node.kill()


async def _settled(settings: Settings) -> None:
    """Wait for a leader: until there is one, streams cannot be made."""
    assert settings.nats_url is not None
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(Unreachable, Rejected, TimeoutError):
                async with connect(settings.nats_url, patience=1.0) as wire:
                    await provision(wire, settings)
                    return
            await asyncio.sleep(0.1)
