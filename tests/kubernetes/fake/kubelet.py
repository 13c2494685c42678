"""The kubelets: they play each pod's script."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from tests.kubernetes.fake.playing import KILLED, Script, begin, end, evict, wait
from tests.kubernetes.fake.pods import ended, terminating
from tests.kubernetes.fake.resources import PODS
from tests.kubernetes.fake.status import Manifest

if TYPE_CHECKING:
    from tests.kubernetes.fake.cluster import Cluster
    from tests.kubernetes.fake.store import Change

MANAGER = "kubelet"


class Kubelet:
    """All kubelets of the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._started: set[str] = set()
        self._stopping: set[str] = set()
        self._numbers: Counter[str] = Counter()
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        cluster.store.listen(self._on_change)

    def _on_change(self, change: Change) -> None:
        pod = change.after
        if change.key[0] != PODS.qualified or pod is None or ended(pod):
            return
        uid = pod["metadata"]["uid"]
        if terminating(pod) and uid not in self._stopping:
            self._stopping.add(uid)
            self._cluster.clock.call_later(0, lambda: self._stop(change.key[1], change.key[2]))
        elif pod["spec"].get("nodeName") and uid not in self._started:
            self._started.add(uid)
            self._cluster.clock.call_later(0, lambda: self._start(change.key[1], change.key[2]))

    def _alive(self, pod: Manifest) -> bool:
        node = pod["spec"].get("nodeName")
        return node is None or self._cluster.scheduler.node(node).ready

    def _load(self, namespace: str, name: str) -> Manifest | None:
        pod = self._cluster.store.peek(PODS, namespace, name)
        return pod if pod is not None and not ended(pod) and self._alive(pod) else None

    def _save(self, pod: Manifest) -> None:
        self._cluster.store.update(PODS, pod, MANAGER, "status")

    def _start(self, namespace: str, name: str) -> None:
        pod = self._load(namespace, name)
        if pod is None or terminating(pod):
            return
        owner = pod["metadata"].get("labels", {}).get("controller-uid", pod["metadata"]["uid"])
        script = self._cluster.script_for(pod, self._numbers[owner])
        self._numbers[owner] += 1
        if script.pull_error:
            self._wait_for_image(pod, script.pull_error)
            return
        begin(pod, self._cluster.clock.stamp())
        self._save(pod)
        if script.run is not None:
            task = asyncio.get_running_loop().create_task(self._really_run(namespace, name, script))
            self._tasks[namespace, name] = task
            return
        self._cluster.clock.call_later(script.seconds, lambda: self._finish(namespace, name, script))

    async def _really_run(self, namespace: str, name: str, script: Script) -> None:
        pod = self._load(namespace, name)
        if pod is None or script.run is None:
            return
        codes = await script.run(pod)
        current = self._load(namespace, name)
        if current is not None and not terminating(current):
            self._end(current, codes, script)

    def _wait_for_image(self, pod: Manifest, container: str) -> None:
        since = self._cluster.clock.stamp()
        for reason, delay in (("ErrImagePull", 0), ("ImagePullBackOff", 10)):
            waiting = {"reason": reason, "message": f"failed to pull the image of {container}: not found"}
            self._cluster.clock.call_later(delay, partial(self._waiting, pod, container, waiting, since))

    def _waiting(self, pod: Manifest, container: str, waiting: Manifest, since: str) -> None:
        current = self._load(pod["metadata"]["namespace"], pod["metadata"]["name"])
        if current is not None:
            wait(current, container, waiting, since)
            self._save(current)

    def _finish(self, namespace: str, name: str, script: Script) -> None:
        pod = self._load(namespace, name)
        if pod is None or terminating(pod):
            return
        if script.evicted:
            evict(pod, script, self._cluster.clock.stamp())
        self._end(pod, {c["name"]: script.code(c["name"]) for c in pod["spec"]["containers"]}, script)

    def _stop(self, namespace: str, name: str) -> None:
        if (task := self._tasks.pop((namespace, name), None)) is not None:
            task.cancel()
        pod = self._load(namespace, name)
        if pod is not None:
            self._end(pod, {c["name"]: KILLED for c in pod["spec"]["containers"]}, Script())

    def _end(self, pod: Manifest, codes: Mapping[str, int], script: Script) -> None:
        end(pod, codes, script, self._cluster.clock.stamp())
        self._save(pod)
