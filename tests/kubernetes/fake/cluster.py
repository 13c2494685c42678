"""The cluster behind the API server: its objects, its nodes, its controllers, and the hands that break it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.kubernetes.fake import defaults
from tests.kubernetes.fake.clock import Clock
from tests.kubernetes.fake.jobs import JobController
from tests.kubernetes.fake.kubelet import Kubelet
from tests.kubernetes.fake.playing import Script
from tests.kubernetes.fake.pods import disrupt, ended
from tests.kubernetes.fake.quotas import QuotaController
from tests.kubernetes.fake.resources import (
    JOBS,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    Resource,
)
from tests.kubernetes.fake.scheduler import Node, Scheduler
from tests.kubernetes.fake.status import Manifest
from tests.kubernetes.fake.store import Change, Key, Store

__all__ = ["Cluster", "Node", "Script"]


@dataclass
class Cluster:
    """Controllers react to the store through the clock, so that nothing happens inside a request."""

    clock: Clock = field(default_factory=Clock)
    nodes: tuple[Node, ...] = (Node("gpu-0"),)
    track_fields: bool = True
    runtime_classes: tuple[str, ...] = ("gvisor",)
    kubelet: bool = True
    """Whether pods that are bound to a node run; otherwise somebody else writes their status."""

    def __post_init__(self) -> None:
        self.store = Store(self.clock, track_fields=self.track_fields)
        self._scripts: list[tuple[str, tuple[Script, ...]]] = []
        self._owned: dict[str, dict[Key, None]] = defaultdict(dict)
        self.jobs = JobController(self)
        QuotaController(self)
        self.scheduler = Scheduler(self, list(self.nodes))
        if self.kubelet:
            Kubelet(self)
        self.store.listen(self._on_change)
        self.namespace("default")
        for name in self.runtime_classes:
            self._runtime_class(name)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Create a namespace, as an administrator would."""
        metadata = {
            "name": name,
            "uid": self.store.uid(),
            "creationTimestamp": self.clock.stamp(),
            "labels": dict(labels or {}),
        }
        item: Manifest = {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}
        defaults.namespace(item)
        item |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        self.store.create(NAMESPACES, item, "admin")

    def _runtime_class(self, name: str) -> None:
        metadata = {"name": name, "uid": self.store.uid(), "creationTimestamp": self.clock.stamp()}
        item = {"kind": "RuntimeClass", "apiVersion": "node.k8s.io/v1", "metadata": metadata, "handler": name}
        self.store.create(RUNTIME_CLASSES, item, "admin")

    def script(self, name: str, *scripts: Script) -> None:
        """Say what the pods of Jobs matching `name` do: the n-th pod plays the n-th script, later ones the last."""
        self._scripts.insert(0, (name, scripts))

    def script_for(self, pod: Manifest, number: int) -> Script:
        """The script of a pod that is the `number`-th of its Job, counted from 0."""
        job = pod["metadata"].get("labels", {}).get("job-name", pod["metadata"]["name"])
        for pattern, scripts in self._scripts:
            if fnmatchcase(job, pattern):
                return scripts[min(number, len(scripts) - 1)]
        return Script.of_annotations(pod["metadata"].get("annotations", {}))

    def priority(self, name: str) -> int:
        found = self.store.peek(PRIORITY_CLASSES, "", name) if name else None
        return int(found["value"]) if found else 0

    def pods_of(self, uid: str) -> list[Manifest]:
        """Pods owned by a Job, oldest first."""
        found = [self.store.peek(PODS, key[1], key[2]) for key in self._owned.get(uid, {})]
        return [pod for pod in found if pod is not None]

    def evict(self, namespace: str, name: str) -> None:
        """The eviction API, as `kubectl drain` uses it."""
        self._disrupt_and_delete(namespace, name, "EvictionByEvictionAPI", "Eviction API: evicting")

    def preempt(self, namespace: str, name: str) -> None:
        """Throw a pod out for a more important one."""
        message = "default-scheduler: preempting to accommodate a higher priority pod"
        self._disrupt_and_delete(namespace, name, "PreemptionByScheduler", message)

    def _disrupt_and_delete(self, namespace: str, name: str, reason: str, message: str) -> None:
        pod = self.store.get(PODS, namespace, name)
        disrupt(pod, reason, message, self.clock.stamp())
        self.store.update(PODS, pod, "kube-scheduler", "status")
        self.delete_pod(namespace, name)

    def lose_node(self, name: str) -> None:
        """Stop a node's kubelet: its pods are tainted away after 40 s + 300 s and stay terminating."""
        self.scheduler.node(name).ready = False
        self.clock.call_later(340, lambda: self._taint(name))

    def _taint(self, node: str) -> None:
        for pod in list(self.store.all(PODS)):
            if pod["spec"].get("nodeName") == node and not ended(pod):
                metadata = pod["metadata"]
                message = "Taint manager: deleting due to NoExecute taint"
                self._disrupt_and_delete(metadata["namespace"], metadata["name"], "DeletionByTaintManager", message)

    def delete_pod(self, namespace: str, name: str, grace: int | None = None) -> None:
        """Mark a pod as terminating; its kubelet (or nobody) finishes the work."""
        pod = self.store.peek(PODS, namespace, name)
        if pod is None or ("deletionTimestamp" in pod["metadata"] and grace != 0):
            return
        seconds = pod["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
        stamp = self.clock.stamp(self.clock.seconds + seconds)  # the server's is that of the end of the grace
        pod["metadata"] |= {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": seconds}
        pod["metadata"]["generation"] = pod["metadata"].get("generation", 1) + 1
        self.store.update(PODS, pod, "")

    def delete_job(self, item: Manifest, policy: str) -> Manifest | None:
        """Delete a Job; returns the object while a finalizer holds it, none when it is gone at once."""
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        if policy == "Background":
            self.store.remove(JOBS, namespace, name)
            return None
        item["metadata"] |= {"deletionTimestamp": self.clock.stamp(), "deletionGracePeriodSeconds": 0}
        item["metadata"]["generation"] = item["metadata"].get("generation", 1) + 1
        item["metadata"]["finalizers"] = ["orphan" if policy == "Orphan" else "foregroundDeletion"]
        held = self.store.update(JOBS, item, "")
        collect = self._orphan if policy == "Orphan" else self._collect_first
        self.clock.call_later(0, lambda: collect(held))
        return held

    def _orphan(self, job: Manifest) -> None:
        for pod in self.pods_of(job["metadata"]["uid"]):
            pod["metadata"].pop("ownerReferences")
            self.store.update(PODS, pod, "kube-controller-manager")
        self.store.remove(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])

    def _collect_first(self, job: Manifest) -> None:
        pods = self.pods_of(job["metadata"]["uid"])
        for pod in pods:
            self.delete_pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
        if pods and self.pods_of(job["metadata"]["uid"]):
            self.clock.call_later(0.1, lambda: self._collect_first(job))
        else:
            self.store.remove(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])

    def _on_change(self, change: Change) -> None:
        if change.key[0] == PODS.qualified:
            self._index(change)
            self._reap(change)
        if change.key[0] == JOBS.qualified and change.after is None:
            for pod in self.pods_of(change.final["metadata"]["uid"]):
                self._later_delete(PODS, pod)
            self.clock.call_later(0, lambda: self._collect_policies(change.final["metadata"]["uid"]))

    def _later_delete(self, _: Resource, pod: Manifest) -> None:
        self.clock.call_later(0, lambda: self.delete_pod(pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _collect_policies(self, owner: str) -> None:
        """The garbage collector: what only a removed object owned goes after it."""
        for policy in self.store.all(NETWORK_POLICIES):
            metadata = policy["metadata"]
            if [owner] == [found["uid"] for found in metadata.get("ownerReferences", [])]:
                self.store.remove(NETWORK_POLICIES, metadata["namespace"], metadata["name"])

    def _index(self, change: Change) -> None:
        for item, keep in ((change.before, False), (change.after, True)):
            for owner in (item or {}).get("metadata", {}).get("ownerReferences", []):
                if keep:
                    self._owned[owner["uid"]][change.key] = None
                else:
                    self._owned[owner["uid"]].pop(change.key, None)

    def _reap(self, change: Change) -> None:
        pod = change.after
        if pod is None or "deletionTimestamp" not in pod["metadata"] or pod["metadata"].get("finalizers"):
            return
        if ended(pod) or pod["metadata"]["deletionGracePeriodSeconds"] == 0:
            self.clock.call_later(0, lambda: self.store.remove(PODS, change.key[1], change.key[2]))
