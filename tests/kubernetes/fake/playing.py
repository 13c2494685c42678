"""What a pod does on its node, and how its kubelet writes that down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.kubernetes.fake.pods import disrupt, set_condition
from tests.kubernetes.fake.status import Manifest

KILLED = 143
"""Exit code of a container that ends on SIGTERM."""


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


def begin(pod: Manifest, stamp: str) -> None:
    """All containers run, in place."""
    pod["status"] |= {"startTime": stamp, "phase": "Running"}
    for kind in ("Initialized", "Ready", "ContainersReady"):
        set_condition(pod, kind, True, stamp)
    state = {"running": {"startedAt": stamp}}
    pod["status"]["containerStatuses"] = [_status(c, state, ready=True) for c in pod["spec"]["containers"]]


def wait(pod: Manifest, container: str, waiting: Manifest, stamp: str) -> None:
    """One container cannot be created, in place."""
    pod["status"]["startTime"] = stamp
    pod["status"]["containerStatuses"] = [
        _status(c, {"waiting": waiting if c["name"] == container else {"reason": "PodInitializing"}}, ready=False)
        for c in pod["spec"]["containers"]
    ]


def evict(pod: Manifest, script: Script, stamp: str) -> None:
    """The kubelet throws the pod out, in place; `end` follows."""
    pod["status"] |= {"reason": "Evicted", "message": script.evicted}
    if script.pressure:
        disrupt(pod, "TerminationByKubelet", script.evicted, stamp)


def end(pod: Manifest, codes: Mapping[str, int], script: Script, stamp: str) -> None:
    """All containers have ended, in place; one that never began has no status."""
    failed = bool(script.evicted) or any(codes.values())
    pod["status"]["phase"] = "Failed" if failed else "Succeeded"
    for kind in ("Ready", "ContainersReady"):
        set_condition(pod, kind, False, stamp, reason="PodFailed" if failed else "PodCompleted")
    if "startTime" in pod["status"]:
        started = pod["status"]["startTime"]
        pod["status"]["containerStatuses"] = [
            _terminated(c, codes[c["name"]], script.oom, started, stamp) for c in pod["spec"]["containers"]
        ]


def _status(container: Manifest, state: Manifest, *, ready: bool) -> Manifest:
    found: Manifest = {"name": container["name"], "state": state, "lastState": {}, "ready": ready, "restartCount": 0}
    return found | {"image": container["image"], "imageID": "sim", "started": ready}


def _terminated(container: Manifest, code: int, oom: str, started: str, stamp: str) -> Manifest:
    reason = "OOMKilled" if container["name"] == oom else "Error" if code else "Completed"
    found = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": stamp}
    return _status(container, {"terminated": found}, ready=False)
