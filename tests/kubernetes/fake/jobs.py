"""The Job controller."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tests.kubernetes.fake import defaults
from tests.kubernetes.fake.admission import refusal
from tests.kubernetes.fake.pods import condition, ended, terminating
from tests.kubernetes.fake.resources import JOBS, PODS
from tests.kubernetes.fake.status import Manifest, clone

if TYPE_CHECKING:
    from tests.kubernetes.fake.cluster import Cluster
    from tests.kubernetes.fake.store import Change

MANAGER = "kube-controller-manager"
_LONGEST = 60.0
"""Seconds between two tries to create a pod, which begin at one and double. Source: the Job controller's ApiBackOff."""
INDEX = "batch.kubernetes.io/job-completion-index"
Verdict = tuple[str, str, str]
"""Type, reason and message of the condition that decides a Job."""


class JobController:
    """Brings each Job's pods and status together, once per change and instant."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._due: set[tuple[str, str]] = set()
        self._not_before: dict[str, float] = defaultdict(float)
        self._timed: set[tuple[str, str]] = set()
        self._tries: Counter[str] = Counter()
        self.refusals: list[str] = []
        """Pods that were not admitted, as the events of their Jobs would tell."""
        cluster.store.listen(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.key[0] == JOBS.qualified:
            self._wake(change.key[1], change.key[2])
        elif change.key[0] == PODS.qualified:
            name = change.final["metadata"].get("labels", {}).get("job-name")
            if name:
                self._wake(change.key[1], name)
                self._untrack_orphan(change, name)

    def _wake(self, namespace: str, name: str, delay: float = 0) -> None:
        key = (namespace, name)
        if delay == 0 and key in self._due:
            return
        if delay == 0:
            self._due.add(key)
        self._cluster.clock.call_later(delay, lambda: self._sync(namespace, name))

    def _untrack_orphan(self, change: Change, job: str) -> None:
        pod = change.after
        if pod is not None and terminating(pod) and self._cluster.store.peek(JOBS, change.key[1], job) is None:
            self._cluster.clock.call_later(0, lambda: self._untrack(change.key[1], change.key[2]))

    def _untrack(self, namespace: str, name: str) -> None:
        pod = self._cluster.store.peek(PODS, namespace, name)
        if pod is not None and pod["metadata"].pop("finalizers", None):
            self._cluster.store.update(PODS, pod, MANAGER)

    def _sync(self, namespace: str, name: str) -> None:
        self._due.discard((namespace, name))
        job = self._cluster.store.peek(JOBS, namespace, name)
        if job is None:
            return
        pods = self._cluster.pods_of(job["metadata"]["uid"])
        if terminating(job) or condition(job, "Complete") or condition(job, "Failed"):
            for pod in pods:
                self._untrack(namespace, pod["metadata"]["name"])
            self._expire(job)
        elif job["spec"]["suspend"]:
            self._suspend(job, pods)
        else:
            self._run(job, pods)

    def _expire(self, job: Manifest) -> None:
        uid, ttl = job["metadata"]["uid"], job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or (uid, "ttl") in self._timed:
            return
        self._timed.add((uid, "ttl"))
        metadata = job["metadata"]
        self._cluster.clock.call_later(
            ttl, lambda: self._cluster.store.remove(JOBS, metadata["namespace"], metadata["name"])
        )

    def _suspend(self, job: Manifest, pods: list[Manifest]) -> None:
        for pod in pods:
            self._cluster.delete_pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
        for pod in filter(ended, pods):
            self._untrack(pod["metadata"]["namespace"], pod["metadata"]["name"])
        status = {"terminating": 0, "uncountedTerminatedPods": {}, "ready": 0}
        if not condition(job, "Suspended"):
            self._add_condition(job, ("Suspended", "JobSuspended", "Job suspended"))
        self._save(job, {"conditions": job["status"]["conditions"]} | status)

    def _save(self, job: Manifest, status: Manifest) -> Manifest:
        job["status"] = {key: value for key, value in status.items() if value is not None}
        return self._cluster.store.update(JOBS, job, MANAGER, "status")

    def _add_condition(self, job: Manifest, verdict: Verdict, *, value: bool = True) -> None:
        kind, reason, message = verdict
        stamp = self._cluster.clock.stamp()
        found = {"type": kind, "status": str(value), "lastProbeTime": stamp, "lastTransitionTime": stamp}
        others = [other for other in job["status"].get("conditions", []) if other["type"] != kind]
        job["status"]["conditions"] = [*others, found | {"reason": reason, "message": message}]

    def _run(self, job: Manifest, pods: list[Manifest]) -> None:
        self._begin(job)
        fresh = [pod for pod in pods if ended(pod) and pod["metadata"].get("finalizers")]
        verdict = self._decided(job) or self._judge(job, pods, fresh)
        if verdict and not self._decided(job):
            self._add_condition(job, verdict)
        active = [pod for pod in pods if not ended(pod) and not terminating(pod)]
        if verdict:
            for pod in active:
                self._cluster.delete_pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
            active = []
        else:
            active += self._create_missing(job, pods, fresh)
        leaving = [pod for pod in pods if not ended(pod) and pod not in active]
        job = self._report(job, active, leaving, fresh)
        if fresh:
            job = self._count(job, active, leaving, fresh)
        if verdict and not leaving:
            self._conclude(job, verdict)

    def _begin(self, job: Manifest) -> None:
        if "startTime" in job["status"]:
            return
        job["status"]["startTime"] = self._cluster.clock.stamp()
        if condition(job, "Suspended"):
            self._add_condition(job, ("Suspended", "JobResumed", "Job resumed"), value=False)
        deadline = job["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self._wake(job["metadata"]["namespace"], job["metadata"]["name"], deadline)

    def _decided(self, job: Manifest) -> Verdict | None:
        for kind in ("FailureTarget", "SuccessCriteriaMet"):
            if found := condition(job, kind):
                return kind, found["reason"], found["message"]
        return None

    def _judge(self, job: Manifest, pods: list[Manifest], fresh: list[Manifest]) -> Verdict | None:
        spec, status = job["spec"], job["status"]
        for pod in fresh:
            action, message = self._policy(job, pod)
            if action == "FailJob":
                return "FailureTarget", "PodFailurePolicy", message
        failed = status.get("failed", 0) + len(self._counted(job, fresh))
        if failed > spec["backoffLimit"]:
            return "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        if len(_succeeded(pods)) >= spec["completions"]:
            return "SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods"
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and self._cluster.clock.since(status["startTime"]) >= deadline:
            return "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline"
        return None

    def _counted(self, job: Manifest, fresh: list[Manifest]) -> list[Manifest]:
        failed = [pod for pod in fresh if pod["status"]["phase"] == "Failed"]
        return [pod for pod in failed if self._policy(job, pod)[0] != "Ignore"]

    def _policy(self, job: Manifest, pod: Manifest) -> tuple[str, str]:
        """Action and message of the first rule that matches a failed pod."""
        if pod["status"]["phase"] != "Failed":
            return "", ""
        where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", [])):
            suffix = f"matching {rule['action']} rule at index {index}"
            for name, code in _exit_codes(pod, rule.get("onExitCodes")):
                return rule["action"], f"Container {name} for pod {where} failed with exit code {code} {suffix}"
            for wanted in rule.get("onPodConditions", []):
                if condition(pod, wanted["type"]):
                    return rule["action"], f"Pod {where} has condition {wanted['type']} {suffix}"
        return "Count", ""

    def _create_missing(self, job: Manifest, pods: list[Manifest], fresh: list[Manifest]) -> list[Manifest]:
        uid, spec = job["metadata"]["uid"], job["spec"]
        if counted := self._counted(job, fresh):
            failures = job["status"].get("failed", 0) + len(counted)
            delay = 10 * 2 ** (failures - 1)  # the controller's own back-off: 10 s, 20 s, 40 s …
            self._not_before[uid] = self._cluster.clock.seconds + delay
            self._wake(job["metadata"]["namespace"], job["metadata"]["name"], delay)
        if self._cluster.clock.seconds < self._not_before[uid]:
            return []
        blocking = [
            pod for pod in pods if not ended(pod) and (spec["podReplacementPolicy"] == "Failed" or not terminating(pod))
        ]
        room = min(spec["parallelism"], spec["completions"] - len(_succeeded(pods))) - len(blocking)
        taken = {_index(pod) for pod in blocking} | _succeeded(pods)
        free = [index for index in range(spec["completions"]) if str(index) not in taken]
        indexed = spec["completionMode"] == "Indexed"
        made = (self._create(job, free[number] if indexed else None) for number in range(max(room, 0)))
        return [pod for pod in made if pod is not None]

    def _create(self, job: Manifest, index: int | None) -> Manifest | None:
        """Create one pod, or try again later when it is not admitted."""
        pod = self._pod(job, index)
        if why := refusal(self._cluster, job["metadata"]["namespace"], pod):
            self._refused(job, why)
            return None
        owned = pod | {"status": {}, "spec": {k: v for k, v in pod["spec"].items() if k not in _ADMITTED}}
        return self._cluster.store.create(PODS, pod, MANAGER, owned)

    def _refused(self, job: Manifest, why: str) -> None:
        """Only an event would tell; the Job's status says nothing of it."""
        metadata = job["metadata"]
        self.refusals.append(f"{metadata['name']}: {why}")
        self._tries[metadata["uid"]] += 1
        delay = min(2.0 ** (self._tries[metadata["uid"]] - 1), _LONGEST)
        self._not_before[metadata["uid"]] = self._cluster.clock.seconds + delay
        self._wake(metadata["namespace"], metadata["name"], delay)

    def _pod(self, job: Manifest, index: int | None) -> Manifest:
        template, metadata = job["spec"]["template"], job["metadata"]
        prefix = f"{metadata['name']}-" if index is None else f"{metadata['name']}-{index}-"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        pod: Manifest = {"kind": "Pod", "apiVersion": "v1", "metadata": dict(template.get("metadata", {}))}
        pod["metadata"] |= {
            "name": prefix[:58] + self._cluster.store.suffix(),
            "generateName": prefix,
            "namespace": metadata["namespace"],
            "uid": self._cluster.store.uid(),
            "creationTimestamp": self._cluster.clock.stamp(),
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
            "finalizers": [defaults.TRACKING],
        }
        if index is not None:
            pod["metadata"]["labels"] = pod["metadata"]["labels"] | {INDEX: str(index)}
            pod["metadata"]["annotations"] = pod["metadata"].get("annotations", {}) | {INDEX: str(index)}
        pod["spec"] = clone(template["spec"])
        if index is not None:
            number(pod["spec"], f"{metadata['name']}-{index}")
        defaults.pod(pod, self._cluster.priority)
        return pod

    def _report(
        self, job: Manifest, active: list[Manifest], leaving: list[Manifest], fresh: list[Manifest]
    ) -> Manifest:
        """The status as it stands before finished pods are counted."""
        waiting = {
            "succeeded": [pod["metadata"]["uid"] for pod in fresh if pod["status"]["phase"] == "Succeeded"],
            "failed": [pod["metadata"]["uid"] for pod in self._counted(job, fresh)],
        }
        ready = sum(condition(pod, "Ready") is not None for pod in active)
        if ready != job["status"].get("ready", 0) and self._settling(job):
            ready = job["status"].get("ready", 0)
        status = job["status"] | {"active": len(active) or None, "terminating": len(leaving), "ready": ready}
        uncounted = {key: value for key, value in waiting.items() if value}
        return self._save(job, status | {"uncountedTerminatedPods": uncounted})

    def _settling(self, job: Manifest) -> bool:
        """Readiness is written with a second's delay, so that short pods cost one write less."""
        uid = job["metadata"]["uid"]
        if (uid, "ready") in self._timed:
            return False
        self._timed.add((uid, "ready"))
        self._wake(job["metadata"]["namespace"], job["metadata"]["name"], 1.0)
        return True

    def _count(self, job: Manifest, active: list[Manifest], leaving: list[Manifest], fresh: list[Manifest]) -> Manifest:
        status = job["status"]
        failed = status.get("failed", 0) + len(self._counted(job, fresh))
        done = _succeeded(self._cluster.pods_of(job["metadata"]["uid"]))
        for pod in fresh:
            self._untrack(pod["metadata"]["namespace"], pod["metadata"]["name"])
        status |= {"uncountedTerminatedPods": {}, "failed": failed or None, "succeeded": len(done) or None}
        if job["spec"]["completionMode"] == "Indexed" and done:
            status["completedIndexes"] = _ranges(sorted(int(index) for index in done))
        if self._decided(job) and not active and not leaving:
            job["status"] = status
            return job
        return self._save(job, status)

    def _conclude(self, job: Manifest, verdict: Verdict) -> None:
        kind, reason, message = verdict
        success = kind == "SuccessCriteriaMet"
        self._add_condition(job, ("Complete" if success else "Failed", reason, message))
        if success:
            job["status"]["completionTime"] = self._cluster.clock.stamp()
        self._save(job, job["status"] | {"ready": 0, "terminating": 0})


_ADMITTED = ("priority", "preemptionPolicy", "tolerations")
"""Filled in by admission, so that the creator does not own them."""


def number(spec: Manifest, hostname: str) -> None:
    """Give a pod of an Indexed Job its host name, and every container its index."""
    spec["hostname"] = hostname
    field = {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}
    for container in spec.get("initContainers", []) + spec["containers"]:
        if all(item["name"] != "JOB_COMPLETION_INDEX" for item in container.get("env", [])):
            container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": field}})


def _index(pod: Manifest) -> str:
    return str(pod["metadata"].get("labels", {}).get(INDEX, pod["metadata"]["uid"]))


def _succeeded(pods: list[Manifest]) -> set[str]:
    return {_index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}


def _exit_codes(pod: Manifest, rule: Manifest | None) -> list[tuple[str, int]]:
    """Containers whose exit code a rule matches; 0 never does."""
    if rule is None:
        return []
    found = []
    for status in pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", []):
        code = status["state"].get("terminated", {}).get("exitCode", 0)
        named = rule.get("containerName", status["name"]) == status["name"]
        if code and named and (code in rule["values"]) is (rule["operator"] == "In"):
            found.append((status["name"], code))
    return found


def _ranges(indexes: list[int]) -> str:
    """`0-2,4`."""
    found: list[list[int]] = []
    for index in indexes:
        if found and found[-1][-1] == index - 1:
            found[-1].append(index)
        else:
            found.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)
