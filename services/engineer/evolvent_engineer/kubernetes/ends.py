"""How a Job ended, and whose fault that was. Pure: a Job and what was seen of its pods in, one judgement out."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.manifests import CANDIDATE, EVALUATOR, NOBODYS_FAULT, WALL_ANNOTATION, Manifest
from evolvent_schemas.values import FailureReason

_STUCK = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Waiting reasons of a container that cannot be created. Source: pkg/kubelet/images and pkg/kubelet/kuberuntime."""
_EVALUATORS_DISK = re.compile(r'volume "(evaluator-tmp|task)"|Container evaluator ')
"""The kubelet's words when something outgrew its disk. Source: pkg/kubelet/eviction/eviction_manager.go."""
_SAID = 300
"""Characters of a container's last words."""
_NO_POD = "a quota is full, or pods are refused for what they name; `evolvent doctor --cluster` looks for both"
_KILLED = 137
"""SIGKILL. Nothing in its pod reaches the evaluator's container, so that without OOMKilled it came from outside."""
_STAMP_SECONDS = 1.0
"""Timestamps are whole seconds."""


@dataclass(frozen=True, slots=True)
class End:
    """A Job has ended. The score of a completed one travels separately, signed by its pod."""

    identity: Identity
    reason: FailureReason | None
    """None: the pod ran to its end and has published a result."""
    message: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    """`exit_code`, `disruptions`, `wall_seconds`: whatever is known."""
    wall_seconds: float = 0.0
    """From the candidate's start to its end, or to the Job's; 0 when it never started."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A pod that does not start, and may yet."""

    why: str
    image: bool
    """Whether a container cannot be created; otherwise no node takes the pod."""


@dataclass(frozen=True, slots=True)
class _Exit:
    container: str
    code: int
    reason: str
    finished: str
    said: str
    """The end of its log, where it failed for nobody's fault."""


def condition(item: Manifest, kind: str) -> Manifest | None:
    """The condition of that type, if its status is True."""
    for found in item.get("status", {}).get("conditions") or ():
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return None


def is_ended(job: Manifest) -> bool:
    """A Job's end is a condition; its counters say nothing."""
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def is_disrupted(pod: Manifest) -> bool:
    """Evicted, preempted, drained, or its node lost: through no fault of its own."""
    return condition(pod, "DisruptionTarget") is not None


def has_evidence(pods: Iterable[Manifest]) -> bool:
    """Whether some pod shows why it failed."""
    return any(pod["status"].get("phase") == "Failed" and not is_disrupted(pod) for pod in pods)


def stuck(pod: Manifest) -> Stuck | None:
    """Why a pod does not start; none while it does or did."""
    for status in _statuses(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            return Stuck(f"{status['name']}: {waiting['reason']}: {waiting.get('message', '')}", image=True)
    for found in pod["status"].get("conditions") or ():
        if found["type"] == "PodScheduled" and found["status"] == "False" and found.get("reason") == "Unschedulable":
            return Stuck(f"unschedulable: {found.get('message', '')}", image=False)
    return None


def judge(identity: Identity, job: Manifest, pods: Sequence[Manifest]) -> End:
    """Name the end of a finished Job; what nobody can be shown to have caused is the infrastructure's."""
    wall = _wall_seconds(job, pods)
    disruptions = sum(map(is_disrupted, pods))
    measured = {"wall_seconds": wall} | ({"disruptions": float(disruptions)} if disruptions else {})
    failed = condition(job, "Failed")
    if failed is None:
        return End(identity, None, measured=measured, wall_seconds=wall)
    reason, message, more = _blame(job, failed, pods, wall)
    return End(identity, reason, message, measured | more, wall)


Blamed = tuple[FailureReason, str, dict[str, float]]


def _blame(job: Manifest, failed: Manifest, pods: Sequence[Manifest], wall: float) -> Blamed:
    story = f"{failed.get('reason', '')}: {failed.get('message', '')}"
    if failed.get("reason") == "DeadlineExceeded":
        if not pods:
            return "infrastructure", f"{story}; no pod was seen: {_NO_POD}", {}
        return _deadline(job, story, _together_seconds(job, failed, pods) if is_several(job) else wall)
    if is_several(job) and (lost := [pod for pod in pods if is_disrupted(pod)]):
        names = ", ".join(pod["metadata"]["name"] for pod in lost)
        return "infrastructure", f"{names} of several pods was evicted, preempted or lost its node; {story}", {}
    guilty = [pod for pod in pods if pod["status"].get("phase") == "Failed" and not is_disrupted(pod)]
    for pod in guilty:
        if pod["status"].get("reason") == "Evicted":  # without a disruption: it outgrew its own disk limit
            message = str(pod["status"].get("message", story))
            return ("evaluator_crashed" if _EVALUATORS_DISK.search(message) else "disk_limit"), message, {}
    exits = sorted((found for pod in guilty for found in _exits(pod)), key=_precedence)
    return _exit(exits[0], story) if exits else ("infrastructure", story, {})


def is_several(job: Manifest) -> bool:
    """Whether a Job is of several pods, each of which may show what ended the others."""
    return int(job.get("spec", {}).get("completions") or 1) > 1


def _deadline(job: Manifest, story: str, wall: float) -> Blamed:
    """The deadline also runs while a pod waits for a node, an image, or its replacement."""
    granted = float(job["metadata"].get("annotations", {}).get(WALL_ANNOTATION, "inf"))
    if wall + _STAMP_SECONDS >= granted:
        return "wall_limit", f"{story}, of which the candidate ran {wall:.0f} s", {"limit_wall_seconds": granted}
    return "infrastructure", f"{story}, but the candidate ran {wall:.0f} s of the {granted:.0f} s it was granted", {}


def _precedence(found: _Exit) -> tuple[bool, str, bool]:
    """Killed for memory first, then whoever ended first; the candidate before those that it took along."""
    return found.reason != "OOMKilled", found.finished, found.container != CANDIDATE


def _exit(found: _Exit, story: str) -> Blamed:
    message = f"{found.container} ended with exit code {found.code} ({found.reason}); {story}"
    measured = {"exit_code": float(found.code)}
    struck = found.container == EVALUATOR and found.code == _KILLED and found.reason != "OOMKilled"
    if found.code == NOBODYS_FAULT or struck:
        return "infrastructure", f"{message}\n{found.said}".rstrip(), measured
    if found.container == CANDIDATE:
        return ("memory_limit" if found.reason == "OOMKilled" else "crashed"), message, measured
    return ("evaluator_crashed" if found.container == EVALUATOR else "infrastructure"), message, measured


def _statuses(pod: Manifest) -> list[Manifest]:
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _exits(pod: Manifest) -> Iterator[_Exit]:
    """What ended by itself: a container that is stopped because its pod is deleted shows nothing."""
    deleted = _deleted_at(pod)
    for status in _statuses(pod):
        ended = status.get("state", {}).get("terminated")
        if ended and ended["exitCode"]:
            finished, said = ended.get("finishedAt") or "", str(ended.get("message", ""))[-_SAID:]
            if deleted is None or (finished and datetime.fromisoformat(finished) < deleted):
                yield _Exit(status["name"], ended["exitCode"], ended.get("reason", ""), finished, said)


def _deleted_at(pod: Manifest) -> datetime | None:
    """When a pod was asked to go. The server's time stamp is that of the end of its grace."""
    metadata = pod.get("metadata", {})
    if "deletionTimestamp" not in metadata:
        return None
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return datetime.fromisoformat(metadata["deletionTimestamp"]) - grace


def _wall_seconds(job: Manifest, pods: Sequence[Manifest]) -> float:
    """The longest that one candidate ran; a pod deleted at the deadline ran until the Job failed.

    A completed Job whose pods were never seen ran no longer than the Job itself.
    """
    final = condition(job, "Failed") or condition(job, "Complete") or {}
    status = job.get("status", {})
    return max(_spans(final, pods), default=_seconds(status.get("startTime"), status.get("completionTime")))


def _together_seconds(job: Manifest, failed: Manifest, pods: Sequence[Manifest]) -> float:
    """The shortest that one candidate of several ran: before all are there, each waits for the others."""
    spans = list(_spans(failed, pods))
    return min(spans) if len(spans) >= job["spec"]["completions"] else 0.0


def _spans(final: Manifest, pods: Sequence[Manifest]) -> Iterator[float]:
    for pod in pods:
        for status in _statuses(pod):
            for state in status.get("state", {}).values() if status["name"] == CANDIDATE else ():
                yield _seconds(state.get("startedAt"), state.get("finishedAt") or final.get("lastTransitionTime"))


def _seconds(start: str | None, end: str | None) -> float:
    if not start or not end:
        return 0.0
    return max((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 0.0)
