"""Launching a Job exactly once, whatever the API server does meanwhile."""

import asyncio
import os
import sys
import time
from pathlib import Path

import aiohttp
import pytest
import yaml

from evolvent.errors import Conflict, Permanent, Transient
from evolvent_engineer.kubernetes.manifests import experiment_job
from tests.kubernetes.conftest import Begin
from tests.kubernetes.fake import ADMIN_TOKEN, LIMITED_TOKEN, ApiServer, Cluster, Fault, Script
from tests.kubernetes.fake.resources import QUOTAS
from tests.kubernetes.orders import NAMESPACE, order, settings
from tests.kubernetes.waiting import FOREVER, jobs, next_end, until

ROOT = Path(__file__).parents[2]


async def test_a_launched_experiment_runs_to_its_end(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("r1-*", Script(seconds=3))
    await backend.launch(order())
    end = await next_end(backend)
    assert (order().identity, None) == (end.identity, end.reason)
    assert 2 <= end.wall_seconds <= 4


async def test_the_job_is_taken_without_a_warning_under_the_restricted_pod_security(server: ApiServer) -> None:
    """A warning would be a pod that is refused later, or a field the server drops."""
    url = f"{server.url}/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(url, json=experiment_job(order(), settings()), headers=headers)
    assert (201, False) == (answer.status, "Warning" in answer.headers)


async def test_launching_twice_makes_one_job(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    await asyncio.gather(*(backend.launch(order()) for _ in range(4)))
    assert 1 == len(jobs(cluster))


async def test_an_engineer_of_another_release_goes_on_with_the_job_that_the_former_launched(
    begin: Begin, cluster: Cluster
) -> None:
    await (await begin()).launch(order())
    later = await begin(image="registry.example/experiment@sha256:" + "1" * 64)
    await later.launch(order())
    assert 1 == len(jobs(cluster))
    assert None is (await next_end(later)).reason


async def test_a_job_that_measures_something_else_is_a_conflict(begin: Begin) -> None:
    backend = await begin()
    await backend.launch(order())
    with pytest.raises(Conflict, match="another manifest"):
        await backend.launch(order(settings={"cpus": 4}))


async def test_a_create_whose_answer_is_lost_makes_one_job(begin: Begin, server: ApiServer, cluster: Cluster) -> None:
    backend = await begin()
    server.faults.arm(Fault("lost_response", "POST"))
    await backend.launch(order())
    assert 1 == len(jobs(cluster))
    assert None is (await next_end(backend)).reason


@pytest.mark.parametrize("cut_off", [False, True])
async def test_a_job_that_comes_when_its_run_has_been_halted_is_removed(
    cut_off: bool, begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    server.faults.arm(Fault("slow", "POST", seconds=0.5))
    launching = asyncio.create_task(backend.launch(order()))
    await asyncio.sleep(0.2)
    if cut_off:
        launching.cancel()
    await backend.halt(order().identity.run)
    await asyncio.gather(launching, return_exceptions=True)
    await until(lambda: server.requests["delete", "jobs"])
    await until(lambda: not jobs(cluster))


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_passing_fault_of_the_server_is_waited_out(
    code: int, begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    backend = await begin()
    server.faults.arm(Fault("status", "POST", times=3, code=code))
    await backend.launch(order())
    assert 1 == len(jobs(cluster))
    assert 3 == server.requests["fault", str(code)]


async def test_retry_after_is_honoured(begin: Begin, server: ApiServer) -> None:
    backend = await begin()
    server.faults.arm(Fault("status", "POST", code=429, retry_after=1))
    began = time.monotonic()
    await backend.launch(order())
    assert time.monotonic() - began >= 1.0


async def test_a_server_that_goes_on_failing_is_transient(begin: Begin, server: ApiServer, cluster: Cluster) -> None:
    backend = await begin()
    server.faults.arm(Fault("status", "POST", times=99, code=500))
    with pytest.raises(Transient, match="failed 6 times"):
        await backend.launch(order())
    assert [] == jobs(cluster)


async def test_a_slow_server_costs_time_and_nothing_else(begin: Begin, server: ApiServer) -> None:
    server.faults.arm(Fault("slow", "GET", times=1, seconds=0.3))
    backend = await begin()
    await backend.launch(order())
    assert None is (await next_end(backend)).reason


async def test_missing_rights_are_permanent(begin: Begin) -> None:
    backend = await begin(token=LIMITED_TOKEN)
    with pytest.raises(Permanent, match="cannot create"):
        await backend.launch(order())


async def test_a_token_nobody_knows_ends_the_start(begin: Begin) -> None:
    with pytest.raises(Permanent, match="Unauthorized"):
        await begin(token="nonsense")


async def test_an_exhausted_quota_is_transient(begin: Begin, cluster: Cluster) -> None:
    metadata = {"name": "q", "namespace": NAMESPACE, "uid": "q"}
    hard = {"hard": {"count/jobs.batch": "0"}}
    cluster.store.create(
        QUOTAS, {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": metadata, "spec": hard}, "admin"
    )
    await until(lambda: cluster.store.get(QUOTAS, NAMESPACE, "q").get("status"))
    backend = await begin()
    with pytest.raises(Transient, match="exceeded quota"):
        await backend.launch(order())


CONNECT = """
import asyncio
from evolvent_engineer.kubernetes.client import Client

async def main() -> None:
    client = Client.connect("evolvent-experiments")
    print(await client.list("jobs", ""))
    await client.close()

asyncio.run(main())
"""


async def _connect(kubeconfig: Path) -> tuple[str, str]:
    """A process of its own: the client reads its environment once, when it is imported."""
    environment = {"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent), "PATH": os.environ["PATH"]}
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-c", CONNECT]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe, cwd=ROOT)
    shown, errors = await process.communicate()
    return shown.decode(), errors.decode()


async def test_outside_a_cluster_the_kubeconfig_names_the_server(server: ApiServer, tmp_path: Path) -> None:
    context = {"name": "c", "context": {"cluster": "k", "user": "u"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context]}
    config |= {"clusters": [{"name": "k", "cluster": {"server": server.url}}]}
    config |= {"users": [{"name": "u", "user": {"token": ADMIN_TOKEN}}]}
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    shown, errors = await _connect(tmp_path / "config")
    assert "([], '" in shown, errors


async def test_without_a_cluster_the_error_says_what_to_do(tmp_path: Path) -> None:
    _, errors = await _connect(tmp_path / "missing")
    assert "Permanent: no cluster is configured" in errors
    assert "set KUBECONFIG" in errors
