"""The kubelets: they play each pod's script."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.kubernetes.fake.pods import disrupt, ended, set_condition, terminating
from tests.kubernetes.fake.resources import PODS
from tests.kubernetes.fake.status import Manifest

if TYPE_CHECKING:
    from tests.kubernetes.fake.cluster import Cluster
    from tests.kubernetes.fake.store import Change

MANAGER = "kubelet"


@dataclass(frozen=True)
class Script:
    """What a pod does once it is bound to a node."""

    seconds: float = 1.0
    exits: Mapping[str, int] = field(default_factory=dict)
    """Exit code by container; the others end with 0."""
    oom: str = ""
    """Container that the kernel kills for memory."""
    pull_error: str = ""
    """Container whose image cannot be pulled; the pod then waits for ever."""
    evicted: str = ""
    """Message of an eviction by the kubelet after `seconds`."""
    pressure: bool = True
    """Whether the eviction is the node's fault (memory or disk pressure) or the pod's own (its disk limit)."""

    run: Callable[[Manifest], Awaitable[Mapping[str, int]]] | None = None
    """Really runs the pod's containers and returns their exit codes; it is cancelled when the pod is deleted."""

    @classmethod
    def of_annotations(cls, found: Mapping[str, str]) -> Script:
        """Read `sim/seconds` and `sim/exit`, as the recorded Jobs carry them."""
        code = int(found.get("sim/exit", "0"))
        return cls(seconds=float(found.get("sim/seconds", "1")), exits={"*": code} if code else {})

    def code(self, container: str) -> int:
        if container == self.oom:
            return 137
        return self.exits.get(container, self.exits.get("*", 0))


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
        stamp = self._cluster.clock.stamp()
        pod["status"]["startTime"] = stamp
        if script.pull_error:
            self._wait_for_image(pod, script.pull_error)
            return
        pod["status"]["phase"] = "Running"
        for kind in ("Initialized", "Ready", "ContainersReady"):
            set_condition(pod, kind, True, stamp)
        pod["status"]["containerStatuses"] = [self._running(c, stamp) for c in pod["spec"]["containers"]]
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
        for reason, delay in (("ErrImagePull", 0), ("ImagePullBackOff", 10)):
            waiting = {"reason": reason, "message": f"failed to pull the image of {container}: not found"}
            self._cluster.clock.call_later(delay, lambda waiting=waiting: self._waiting(pod, container, waiting))  # type: ignore[misc]

    def _waiting(self, pod: Manifest, container: str, waiting: Manifest) -> None:
        current = self._load(pod["metadata"]["namespace"], pod["metadata"]["name"])
        if current is None:
            return
        current["status"]["startTime"] = pod["status"]["startTime"]
        current["status"]["containerStatuses"] = [
            _status(c, {"waiting": waiting if c["name"] == container else {"reason": "PodInitializing"}}, ready=False)
            for c in pod["spec"]["containers"]
        ]
        self._save(current)

    def _running(self, container: Manifest, stamp: str) -> Manifest:
        return _status(container, {"running": {"startedAt": stamp}}, ready=True)

    def _finish(self, namespace: str, name: str, script: Script) -> None:
        pod = self._load(namespace, name)
        if pod is None or terminating(pod):
            return
        if script.evicted:
            pod["status"] |= {"reason": "Evicted", "message": script.evicted}
            if script.pressure:
                disrupt(pod, "TerminationByKubelet", script.evicted, self._cluster.clock.stamp())
        self._end(pod, {c["name"]: script.code(c["name"]) for c in pod["spec"]["containers"]}, script)

    def _stop(self, namespace: str, name: str) -> None:
        if (task := self._tasks.pop((namespace, name), None)) is not None:
            task.cancel()
        pod = self._load(namespace, name)
        if pod is not None:
            self._end(pod, {c["name"]: 143 for c in pod["spec"]["containers"]}, Script())

    def _end(self, pod: Manifest, codes: Mapping[str, int], script: Script) -> None:
        stamp = self._cluster.clock.stamp()
        failed = bool(script.evicted) or any(codes.values())
        pod["status"]["phase"] = "Failed" if failed else "Succeeded"
        for kind in ("Ready", "ContainersReady"):
            set_condition(pod, kind, False, stamp, reason="PodFailed" if failed else "PodCompleted")
        if "startTime" in pod["status"]:
            started = pod["status"]["startTime"]
            pod["status"]["containerStatuses"] = [
                _terminated(c, codes[c["name"]], script.oom, started, stamp) for c in pod["spec"]["containers"]
            ]
        self._save(pod)


def _status(container: Manifest, state: Manifest, *, ready: bool) -> Manifest:
    found: Manifest = {"name": container["name"], "state": state, "lastState": {}, "ready": ready, "restartCount": 0}
    return found | {"image": container["image"], "imageID": "sim", "started": ready}


def _terminated(container: Manifest, code: int, oom: str, started: str, stamp: str) -> Manifest:
    reason = "OOMKilled" if container["name"] == oom else "Error" if code else "Completed"
    found = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": stamp}
    return _status(container, {"terminated": found}, ready=False)
