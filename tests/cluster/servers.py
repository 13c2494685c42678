"""Real nats-servers that know a user for each role, with the permissions that are deployed."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from evolvent import acl
from evolvent.errors import Rejected, Unreachable
from evolvent.platform import dial
from evolvent.provision import provision
from evolvent.settings import Settings
from tests.platform.servers import Node, free_ports

PASSWORDS = {acl.variable(user): f"p{number}{user}" for number, user in enumerate(acl.USERS)}


@dataclass(frozen=True)
class Guarded:
    """One node, or three that keep everything three times."""

    nodes: list[Node]
    home: Path

    def settings(self, user: str, node: int = 0) -> Settings:
        return Settings(
            home=self.home / user,
            nats_url=self.nodes[node].url,
            nats_user=user,
            nats_password=PASSWORDS[acl.variable(user)],
            replicas=len(self.nodes),
            ack_wait=2.0,
            allow_unsafe_sandbox=True,
        )


@contextlib.asynccontextmanager
async def guarded(folder: Path, count: int, extra: str = "") -> AsyncIterator[Guarded]:
    """Start nodes with the deployed accounts, and make the streams as the provisioner."""
    os.environ.update(PASSWORDS)
    ports, routes = free_ports(count), free_ports(count)
    peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    nodes = [
        Node(folder / f"n{index}", port, acl.render() + _joined(route, peers, count) + extra)
        for index, (port, route) in enumerate(zip(ports, routes, strict=True))
    ]
    found = Guarded(nodes, folder)
    try:
        for node in nodes:
            await node.start()
        await _settled(found.settings(acl.PROVISIONER))
        yield found
    finally:
        for node in nodes:
            await node.kill()
        for name in PASSWORDS:
            os.environ.pop(name, None)


def _joined(route: int, peers: str, count: int) -> str:
    return f"cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{peers}] }}\n" if count > 1 else ""


async def _settled(settings: Settings) -> None:
    """Wait for a leader: until there is one, streams cannot be made."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unreachable, Rejected, TimeoutError):
                async with dial(settings, "provision", patience=1.0) as wire:
                    await provision(wire, settings)
                    return
            await asyncio.sleep(0.1)
