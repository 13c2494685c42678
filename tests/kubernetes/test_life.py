"""An engineer's Jobs over HTTP and in real time: on the fake's control plane, or on the one that KUBECONFIG names.

There the manifests of the overlay `local` are applied, and the context `engineer` has the engineer's rights only.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes import config
from kubernetes.client.configuration import Configuration

from evolvent_engineer.kubernetes.backend import KubernetesBackend
from evolvent_engineer.kubernetes.client import Client
from evolvent_schemas.values import FailureReason, Limits
from tests.kubernetes.access import Access, kubeconfig
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Node, Script
from tests.kubernetes.fake.clock import Clock
from tests.kubernetes.fake.status import Manifest
from tests.kubernetes.orders import NAMESPACE, PATIENCE, order, settings
from tests.kubernetes.standin import StandIn
from tests.kubernetes.waiting import FOREVER, next_end, no_end

JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
MACHINE = Node("large", cpu=10_000, memory="10000Gi", disk="1000Ti")
MANY = 200 if "KUBECONFIG" in os.environ else 50
"""The fake bears a thousand in another test."""
Engineer = Callable[..., Awaitable[KubernetesBackend]]


@dataclass
class Plane:
    """A control plane whose pods all do the same."""

    config: Path
    admin: aiohttp.ClientSession
    scripts: tuple[Script, ...] = (Script(seconds=0.2),)

    def choose(self, _: Manifest, number: int) -> Script:
        return self.scripts[min(number, len(self.scripts) - 1)]

    async def listed(self, path: str) -> list[Manifest]:
        async with self.admin.get(path) as answer:
            found: list[Manifest] = (await answer.json())["items"]
            return found

    async def until_running(self, number: int = 1) -> list[Manifest]:
        async with asyncio.timeout(10):
            while True:
                found = [pod for pod in await self.listed(PODS) if pod["status"]["phase"] == "Running"]
                if len(found) >= number:
                    return found
                await asyncio.sleep(0.05)


@asynccontextmanager
async def faked(folder: Path, rate: float) -> AsyncIterator[Path]:
    cluster = Cluster(Clock(datetime.now(UTC)), nodes=(MACHINE,), kubelet=False, track_fields=False)
    cluster.namespace(NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
    async with ApiServer(cluster, rate=rate) as server:
        yield kubeconfig(folder / "config", server.url, {"admin": ADMIN_TOKEN, "engineer": ADMIN_TOKEN})


@pytest.fixture
def rate() -> float:
    """The fake's seconds per real second; kubelets that are stood in for live in real time."""
    return 1.0


@pytest.fixture
async def plane(tmp_path: Path, rate: float) -> AsyncIterator[Plane]:
    async with AsyncExitStack() as stack:
        named = os.environ.get("KUBECONFIG")
        path = Path(named) if named else await stack.enter_async_context(faked(tmp_path, rate))
        admin = await stack.enter_async_context(Access.of(path).session("admin"))
        found = Plane(path, admin)
        await stack.enter_async_context(StandIn(admin, MACHINE, found.choose).running())
        yield found
        await admin.delete(JOBS, json={"propagationPolicy": "Background", "gracePeriodSeconds": 0})
        await _emptied(found)


async def _emptied(plane: Plane) -> None:
    async with asyncio.timeout(20):
        while await plane.listed(PODS) or await plane.listed(JOBS):  # noqa: ASYNC110 - watched from outside
            await asyncio.sleep(0.05)


@pytest.fixture
async def engineer(plane: Plane) -> AsyncIterator[Engineer]:
    async with AsyncExitStack() as stack:

        async def start(**more: Any) -> KubernetesBackend:
            configuration = Configuration()
            config.load_kube_config(str(plane.config), context="engineer", client_configuration=configuration)  # type: ignore[no-untyped-call]
            client = Client(configuration, NAMESPACE, patience=PATIENCE)
            local = {"runtime_class": None, "user_namespaces": False}
            found = KubernetesBackend(client, settings(**local | more))
            stack.push_async_callback(found.close)
            await found.start()
            return found

        yield start


async def test_an_experiment_runs_to_its_end(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (Script(seconds=2),)
    backend = await engineer()
    await backend.launch(order())
    end = await next_end(backend)
    assert (order().identity, None) == (end.identity, end.reason)
    assert 1 <= end.wall_seconds <= 4


async def test_launching_again_finds_the_job_that_is_there(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (FOREVER,)
    first, second = await engineer(), await engineer()
    await asyncio.gather(*(each.launch(order()) for each in (first, second, first, second)))
    assert 1 == len(await plane.listed(JOBS))


async def test_a_later_life_adopts_the_job_and_learns_its_end_until_it_is_settled(
    engineer: Engineer, plane: Plane
) -> None:
    plane.scripts = (Script(seconds=1),)
    await (await engineer()).launch(order())
    for _ in range(2):
        later = await engineer()
        assert (order().identity, None) == ((end := await next_end(later)).identity, end.reason)
    await later.settle(order().identity)
    await no_end(await engineer())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(seconds=0.2, exits={"candidate": 3}), "crashed"),
        (Script(seconds=0.2, exits={"evaluator": 1}), "evaluator_crashed"),
        (Script(seconds=0.2, oom="candidate"), "memory_limit"),
        (Script(seconds=0.2, evicted="Pod ephemeral local storage usage exceeds", pressure=False), "disk_limit"),
    ],
)
async def test_an_end_is_named_by_who_caused_it(
    script: Script, reason: FailureReason, engineer: Engineer, plane: Plane
) -> None:
    plane.scripts = (script,)
    backend = await engineer(retries=0)
    await backend.launch(order())
    assert reason == (await next_end(backend)).reason


async def test_a_node_that_runs_out_of_memory_is_made_good_by_a_new_pod(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (Script(seconds=0.2, evicted="The node was low on resource: memory"), Script(seconds=0.2))
    backend = await engineer(disruptions=2)
    await backend.launch(order())
    end = await next_end(backend, 40)
    assert (None, 1.0) == (end.reason, end.measured.get("disruptions"))


async def test_a_drained_node_is_made_good_by_a_new_pod(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (FOREVER, Script(seconds=0.2))
    backend = await engineer(disruptions=2)
    await backend.launch(order())
    name = (await plane.until_running())[0]["metadata"]["name"]
    version = await plane.admin.get("/apis/policy/v1")
    api = "policy/v1" if version.ok else "policy/v1beta1"
    eviction = {"apiVersion": api, "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    assert (await plane.admin.post(f"{PODS}/{name}/eviction", json=eviction)).ok
    end = await next_end(backend, 40)
    assert (None, 1.0) == (end.reason, end.measured.get("disruptions"))


@pytest.mark.parametrize("rate", [20.0])
async def test_a_deadline_ends_the_experiment(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (FOREVER,)
    backend = await engineer(start_seconds=1)
    limits = Limits(wall_seconds=1, memory_mb=512)
    await backend.launch(order(9, limits=limits))  # a name of its own: Kubernetes 1.20 forgets a reused one's deadline
    assert "wall_limit" == (await next_end(backend, 80)).reason


async def test_a_job_deleted_by_hand_is_the_infrastructures(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (FOREVER,)
    backend = await engineer()
    await backend.launch(order())
    await plane.until_running()
    await plane.admin.delete(f"{JOBS}/{order().identity.name}", json={"propagationPolicy": "Background"})
    assert "infrastructure" == (await next_end(backend)).reason


async def test_a_halted_run_leaves_no_job_and_no_pod(engineer: Engineer, plane: Plane) -> None:
    plane.scripts = (FOREVER,)
    backend = await engineer()
    await asyncio.gather(*(backend.launch(order(number)) for number in range(3)))
    await backend.launch(order(run="r2"))
    await plane.until_running(4)
    await backend.halt("r1")
    async with asyncio.timeout(20):
        while len(await plane.listed(PODS)) > 1:  # noqa: ASYNC110 - watched from outside
            await asyncio.sleep(0.05)
    assert [order(run="r2").identity.name] == [job["metadata"]["name"] for job in await plane.listed(JOBS)]


async def test_many_jobs_at_once_all_end(engineer: Engineer) -> None:
    backend = await engineer()
    orders = [order(number) for number in range(MANY)]
    await asyncio.gather(*map(backend.launch, orders))
    ends = [await next_end(backend, 120) for _ in orders]
    assert {each.identity for each in orders} == {end.identity for end in ends}
    assert {None} == {end.reason for end in ends}
