"""`evolvent doctor --cluster` against a bus with permissions and the fake API server: what is wrong is named."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evolvent import acl
from tests.cli.shell import checks, evolvent
from tests.cluster.servers import PASSWORDS, Guarded, guarded
from tests.kubernetes.fake import ADMIN_TOKEN, LIMITED_TOKEN, ApiServer, Cluster
from tests.kubernetes.fake.resources import NODES, QUOTAS, SERVICE_ACCOUNTS, SERVICES

SPACE = "evolvent-experiments"
IMAGE = "registry.example/evolvent-experiment@sha256:" + "b" * 64


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path / "bus", 1) as found:
        yield found


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    cluster = Cluster()
    cluster.namespace(SPACE)
    for resource, name in ((SERVICE_ACCOUNTS, "experiment"), (SERVICES, "ranks")):
        metadata = {"name": name, "namespace": SPACE, "uid": name}
        item = {"apiVersion": "v1", "kind": resource.kind, "metadata": metadata}
        cluster.store.create(resource, item, "admin")
    async with ApiServer(cluster) as found:
        yield found


def node(server: ApiServer, gpus: int, **labels: str) -> None:
    metadata = {"name": "gpu-0", "uid": "1", "labels": labels}
    status = {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(gpus)}}
    item = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": status}
    server.cluster.store.create(NODES, item, "admin")


def quota(server: ApiServer, used: int) -> None:
    metadata = {"name": "experiments", "namespace": SPACE, "uid": "2"}
    hard, taken = {"count/jobs.batch": "5k"}, {"count/jobs.batch": str(used)}
    status = {"hard": hard, "used": taken}
    item = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}, "status": status}
    server.cluster.store.create(QUOTAS, item, "admin")


def kubeconfig(folder: Path, url: str, token: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(json.dumps(config))
    return path


async def examine(bus: Guarded, url: str, token: str = ADMIN_TOKEN, **more: str) -> tuple[int, dict[str, Any]]:
    environment = {
        "KUBECONFIG": str(kubeconfig(bus.home, url, token)),
        "EVOLVENT_NATS_URL": bus.nodes[0].url,
        "EVOLVENT_NATS_USER": "user",
        "EVOLVENT_NATS_PASSWORD": PASSWORDS[acl.variable("user")],
        "EVOLVENT_ACK_WAIT": "2.0",
        "EVOLVENT_EXPERIMENT_IMAGE": IMAGE,
    }
    done = await asyncio.to_thread(evolvent, "doctor", "--cluster", "--json", cwd=bus.home, **(environment | more))
    assert done.stdout, done.stderr
    return done.returncode, checks(done)


async def test_a_cluster_that_can_run_passes(bus: Guarded, server: ApiServer) -> None:
    node(server, 8, pool="gpu")
    quota(server, 10)
    code, found = await examine(bus, server.url, EVOLVENT_EXPERIMENT_NODE_SELECTOR='{"pool": "gpu"}')
    cluster = {"image", "vectors", "api server", "rights", "pods", "quota", "gpu nodes"}
    assert cluster | {"server", "streams", "log room"} == set(found)
    assert {"ok"} == {one["verdict"] for one in found.values()}, found
    assert 0 == code
    assert 8 == found["gpu nodes"]["measured"]["gpus"]


async def test_missing_rights_are_named_one_by_one(bus: Guarded, server: ApiServer) -> None:
    code, found = await examine(bus, server.url, LIMITED_TOKEN)
    assert (1, "fail") == (code, found["rights"]["verdict"])
    missing = "create jobs, delete jobs, deletecollection jobs, create networkpolicies"
    assert f"cannot {missing} in evolvent-experiments" == found["rights"]["seen"]
    assert "rights.yaml" in found["rights"]["mend"]


async def test_what_pods_name_and_the_cluster_lacks_is_named(bus: Guarded, server: ApiServer) -> None:
    more = {"EVOLVENT_EXPERIMENT_RUNTIME_CLASS": "kata", "EVOLVENT_EXPERIMENT_PRIORITY_CLASS": "search"}
    code, found = await examine(bus, server.url, **more)
    assert (1, "fail") == (code, found["pods"]["verdict"])
    assert "without runtimeclasses/kata, priorityclasses/search no pod" in found["pods"]["seen"]
    assert "EVOLVENT_EXPERIMENT" in found["pods"]["mend"]
    _, found = await examine(bus, server.url, EVOLVENT_EXPERIMENT_RUNTIME_CLASS="none")
    assert "serviceaccounts/experiment, services/ranks exist" == found["pods"]["seen"]


async def test_no_gpu_no_quota_and_a_moving_image_are_told(bus: Guarded, server: ApiServer) -> None:
    node(server, 8, pool="other")
    code, found = await examine(
        bus, server.url, EVOLVENT_EXPERIMENT_NODE_SELECTOR='{"pool": "gpu"}', EVOLVENT_EXPERIMENT_IMAGE="e:latest"
    )
    assert 0 == code
    assert ["warn"] * 3 == [found[name]["verdict"] for name in ("gpu nodes", "quota", "image")]
    assert "pool=gpu" in found["gpu nodes"]["seen"]


@pytest.mark.parametrize(("used", "verdict"), [(4600, "warn"), (5000, "fail")])
async def test_a_quota_that_is_used_up_is_told(bus: Guarded, server: ApiServer, used: int, verdict: str) -> None:
    quota(server, used)
    _, found = await examine(bus, server.url)
    assert verdict == found["quota"]["verdict"]
    assert "raise count/jobs.batch" in found["quota"]["mend"]


async def test_what_cannot_be_reached_is_named_with_its_setting(bus: Guarded) -> None:
    gone = "http://127.0.0.1:1"
    code, found = await examine(
        bus, gone, EVOLVENT_COGNITION_QDRANT_URL=gone, EVOLVENT_EXPERIMENT_IMAGE="", EVOLVENT_NATS_PASSWORD="wrong"
    )
    assert 1 == code
    mends = {name: found[name]["mend"] for name in ("api server", "vectors", "image", "server")}
    assert "KUBECONFIG" in mends["api server"]
    assert "EVOLVENT_COGNITION_QDRANT_URL" in mends["vectors"]
    assert "EVOLVENT_EXPERIMENT_IMAGE" in mends["image"]
    assert "Authorization Violation" in found["server"]["seen"]


async def test_a_vector_store_that_answers_is_seen(bus: Guarded, server: ApiServer) -> None:
    async def ready(_request: web.Request) -> web.Response:
        return web.Response(text="all shards are ready")

    app = web.Application()
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        _, found = await examine(bus, server.url, EVOLVENT_COGNITION_QDRANT_URL=url)
    finally:
        await runner.cleanup()
    assert "ok" == found["vectors"]["verdict"]


async def test_a_lost_consumer_is_mended_by_the_provisioner_only(bus: Guarded, server: ApiServer) -> None:
    from evolvent.platform import dial

    async with dial(bus.settings(acl.PROVISIONER), "test") as wire:
        await wire.api("CONSUMER.DELETE.LOG.analyzer")
    code, found = await examine(bus, server.url)
    assert (1, "consumer analyzer is missing") == (code, found["streams"]["seen"])
    environment = {
        "EVOLVENT_NATS_URL": bus.nodes[0].url,
        "EVOLVENT_NATS_USER": acl.PROVISIONER,
        "EVOLVENT_NATS_PASSWORD": PASSWORDS[acl.variable(acl.PROVISIONER)],
        "EVOLVENT_ACK_WAIT": "2.0",
    }
    done = await asyncio.to_thread(evolvent, "deploy", "provision", "--json", cwd=bus.home, **environment)
    assert {"changes": ["consumer analyzer created"]} == json.loads(done.stdout)
    assert 0 == (await examine(bus, server.url))[0]
