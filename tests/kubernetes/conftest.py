"""One fake cluster per test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from evolvent.embedded import Server as NatsServer
from evolvent.embedded import embedded
from evolvent.platform import Platform, open_platform
from evolvent.settings import Settings
from evolvent_engineer.kubernetes.backend import KubernetesBackend
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Node
from tests.kubernetes.orders import NAMESPACE, backend

RATE = 20.0
"""Simulated seconds per real second."""
Begin = Callable[..., Awaitable[KubernetesBackend]]


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(nodes=(Node("gpu-0"), Node("gpu-1")))
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    found.namespace(NAMESPACE, levels)
    return found


@pytest.fixture
def rate() -> float:
    return RATE


@pytest.fixture
async def server(cluster: Cluster, rate: float) -> AsyncIterator[ApiServer]:
    async with ApiServer(cluster, rate=rate) as found:
        yield found


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[NatsServer]:
    async with embedded(settings) as running:
        yield running


@pytest.fixture
async def platform(bus: NatsServer, settings: Settings) -> AsyncIterator[Platform]:
    async with open_platform(settings, "test") as opened:
        yield opened


@pytest.fixture
async def begin(server: ApiServer) -> AsyncIterator[Begin]:
    """Start an engineer's backend; several may follow one another or live side by side."""
    async with AsyncExitStack() as stack:

        async def start(token: str = ADMIN_TOKEN, **more: Any) -> KubernetesBackend:
            found = backend(server.url, token, **more)
            stack.push_async_callback(found.close)
            await found.start()
            return found

        yield start
