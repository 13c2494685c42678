"""The check of a real cluster, run on what can be had here: real roles and a real log, Jobs on a played API server."""

import asyncio
import json
import os
import sys
from pathlib import Path

from evolvent.embedded import Server as NatsServer
from evolvent.platform import Platform
from tests.deploy import live
from tests.deploy.ring import SYSTEM
from tests.kubernetes.fake import ApiServer
from tests.kubernetes.fake.resources import QUOTAS, SERVICE_ACCOUNTS, SERVICES
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.orders import IMAGE, NAMESPACE
from tests.kubernetes.test_wiring import TASK, at_work, engineer, kubeconfig, kubelet, others, rate

__all__ = ["kubelet", "rate"]


async def test_it_sees_a_whole_run_in_jobs_and_what_the_cluster_lacks(
    platform: Platform,
    server: ApiServer,
    bus: NatsServer,
    kubelet: Kubelet,
    tmp_path: Path,
) -> None:
    server.cluster.namespace(SYSTEM)
    for resource, name in ((SERVICE_ACCOUNTS, "experiment"), (SERVICES, "ranks"), (QUOTAS, "experiments")):
        metadata = {"name": name, "namespace": NAMESPACE, "uid": name}
        item = {"apiVersion": "v1", "kind": resource.kind, "metadata": metadata, "spec": {"hard": {"pods": "1000"}}}
        server.cluster.store.create(resource, item, "admin")
    environment = os.environ | {
        "KUBECONFIG": str(kubeconfig(server, tmp_path / "config")),
        "EVOLVENT_NATS_URL": bus.url,
        "EVOLVENT_NATS_TOKEN": bus.token,
        "EVOLVENT_EXPERIMENT_IMAGE": IMAGE,
    }
    command = ("-m", "tests.deploy.live", "--task", str(TASK), "--rounds", "2", "--width", "1")
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=environment, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    assert 0 == process.returncode, said
    found = json.loads(said)
    assert ("completed", [], [], []) == tuple(found[name] for name in ("state", "unfit", "lost", "replay")), found
    assert len(kubelet.started) == found["tiers"]["T0"] == len(found["scores"])
    assert live.sound(found)
    assert not live.sound(found | {"unfit": ["rights: cannot create jobs"]})
    assert not live.sound(found | {"tiers": {"T2": 3}})
