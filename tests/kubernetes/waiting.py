"""Waiting for what a cluster does, and looking at it."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from evolvent_engineer.kubernetes.backend import KubernetesBackend
from evolvent_engineer.kubernetes.ends import End
from tests.kubernetes.fake import Cluster, Script
from tests.kubernetes.fake.resources import JOBS, PODS
from tests.kubernetes.fake.status import Manifest
from tests.kubernetes.orders import NAMESPACE

FOREVER = Script(seconds=10_000)


async def next_end(backend: KubernetesBackend, seconds: float = 10.0) -> End:
    async with asyncio.timeout(seconds):
        return await anext(backend.ends())


async def no_end(backend: KubernetesBackend, seconds: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        await next_end(backend, seconds)


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - the cluster is watched from outside
            await asyncio.sleep(0.01)


def jobs(cluster: Cluster) -> list[Manifest]:
    return cluster.store.all(JOBS, NAMESPACE)


def pods(cluster: Cluster) -> list[Manifest]:
    return cluster.store.all(PODS, NAMESPACE)


def running(cluster: Cluster) -> list[Manifest]:
    return [pod for pod in pods(cluster) if pod["status"]["phase"] == "Running"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
