"""A run on a bus where every role, and every pod, is its own user with the rights that are deployed."""

import contextlib
from pathlib import Path

import pytest

from evolvent import acl
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.serve import factory
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.role import Cluster as Connection
from evolvent_engineer.kubernetes.role import on_kubernetes
from evolvent_schemas import ExperimentCompleted
from tests.cluster.servers import PASSWORDS, Guarded, guarded
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Script
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.orders import SECRET, backend
from tests.kubernetes.test_wiring import at_work, begun, finished, of_kind


@pytest.fixture
def rate() -> float:
    return 2.0


async def host(role: str, bus: Guarded, server: ApiServer, stack: contextlib.AsyncExitStack) -> Platform:
    """One role under its own name, the engineer on the cluster."""
    platform = await stack.enter_async_context(open_platform(bus.settings(role), role))
    service = factory(role)(platform)
    if role == "engineer":
        depot = Depot(platform.wire, platform.artifacts, SECRET)
        url = bus.nodes[0].url
        service = on_kubernetes(
            platform, lambda _: Connection(backend(server.url, ADMIN_TOKEN, nats_url=url, sandbox="T2"), depot)
        )
    await stack.enter_async_context(at_work(platform, service))
    return platform


async def test_a_run_on_a_cluster_needs_no_right_that_is_not_deployed(
    server: ApiServer, cluster: Cluster, tmp_path: Path
) -> None:
    password = PASSWORDS[acl.variable(acl.EXPERIMENT)]
    kubelet = Kubelet(tmp_path / "pods", {"user": acl.EXPERIMENT, "password": password})
    cluster.script("*", Script(run=kubelet))
    async with guarded(tmp_path / "bus", 1) as bus, contextlib.AsyncExitStack() as stack:
        platforms = [await host(role, bus, server, stack) for role in ROLES]
        person = await stack.enter_async_context(open_platform(bus.settings("user"), "user"))
        run = await begun(person, rounds=1)
        end = await finished(person, run)
        completed = await of_kind(person, run, ExperimentCompleted)
        violations = {platform.settings.nats_user: platform.wire.violations for platform in (*platforms, person)}
    print(kubelet.logs())
    assert ("completed", 0) == (end.state, end.rounds_failed)
    assert len(kubelet.started) == len(completed) >= 1
    assert {0} == set(violations.values()), violations
