"""A whole run whose experiments are of two pods each, on the fake cluster, with real processes in the pods."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evolvent import audit
from evolvent.embedded import Server as NatsServer
from evolvent.platform import Platform
from evolvent.provision import ROLES
from evolvent.serve import factory
from evolvent.service import Service
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.role import Cluster as Connection
from evolvent_engineer.kubernetes.role import on_kubernetes
from evolvent_schemas import ExperimentCompleted, ExperimentFailed, HandlingFailed
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Script
from tests.kubernetes.fake.jobs import INDEX
from tests.kubernetes.fake.resources import NETWORK_POLICIES
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.orders import NAMESPACE, SECRET, backend
from tests.kubernetes.test_wiring import TASK, at_work, begun, finished, kubelet, of_kind, others
from tests.kubernetes.waiting import free_port, jobs, until

__all__ = ["kubelet"]
MEETS = """
import os, socket, time

def point():
    rank, where = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        with socket.create_server(where) as listener:
            peer, _ = listener.accept()
    else:
        while True:
            try:
                peer = socket.create_connection(where)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    peer.sendall(bytes([rank]))
    assert peer.recv(1)[0] == 1 - rank
    return (0.5, 0.5)
"""


@pytest.fixture
def rate() -> float:
    """Pods that really run must not meet a simulated deadline."""
    return 2.0


def meeting_task(folder: Path) -> Path:
    (folder / "baseline").mkdir(parents=True)
    for name in ("brief.md", "evaluate.py"):
        (folder / name).write_text((TASK / name).read_text())
    (folder / "task.toml").write_text((TASK / "task.toml").read_text() + "\n[stages.settings]\npods = 2\n")
    (folder / "baseline" / "program.py").write_text(MEETS)
    return folder


def engineer(platform: Platform, server: ApiServer, bus: NatsServer) -> Service[Any]:
    more = {"nats_url": bus.url, "sandbox": "T2", "group_port": free_port(), "start_seconds": 120}
    depot = Depot(platform.wire, platform.artifacts, SECRET)
    return on_kubernetes(platform, lambda _: Connection(backend(server.url, ADMIN_TOKEN, **more), depot))


async def test_a_run_whose_experiments_are_of_two_pods_outlives_the_loss_of_one(
    platform: Platform, server: ApiServer, bus: NatsServer, kubelet: Kubelet, cluster: Cluster, tmp_path: Path
) -> None:
    """The first try loses rank 1 to an eviction: infrastructure, another try, one result, nothing left behind."""

    async def evicted_at_first(pod: Any) -> Mapping[str, int]:
        labels = pod["metadata"]["labels"]
        if (labels["evolvent/try"], labels[INDEX]) == ("0", "1"):
            cluster.evict(NAMESPACE, pod["metadata"]["name"])
            await asyncio.Event().wait()
        return await kubelet(pod)

    cluster.script("*", Script(run=evicted_at_first))
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, meeting_task(tmp_path / "task"), rounds=1)
        end = await finished(platform, run)
        await until(lambda: not jobs(cluster))
    failed = await of_kind(platform, run, ExperimentFailed)
    completed = await of_kind(platform, run, ExperimentCompleted)
    assert {("infrastructure", 0)} == {(fact.reason, fact.attempt) for fact in failed}
    assert {1} == {fact.attempt for fact in completed}
    assert "completed" == end.state
    assert [] == cluster.store.all(NETWORK_POLICIES, NAMESPACE)
    assert [] == (await audit.replay(platform, run, ROLES)).findings


@contextlib.asynccontextmanager
async def on_this_machine(platform: Platform) -> AsyncIterator[None]:
    async with at_work(platform, *others(platform), factory("engineer")(platform)):
        yield


async def test_one_machine_ends_a_run_of_several_pods_before_its_first_round(
    platform: Platform, tmp_path: Path
) -> None:
    async with on_this_machine(platform):
        run = await begun(platform, meeting_task(tmp_path / "task"), rounds=3)
        end = await finished(platform, run)
    (given_up,) = await of_kind(platform, run, HandlingFailed)
    assert ("failed", "h0", "permanent") == (end.state, given_up.round, given_up.reason)
    assert "stage explore asks for pods = 2" in given_up.error
    assert "EVOLVENT_ENGINEER_BACKEND=kubernetes" in given_up.error
