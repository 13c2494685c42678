"""The Job that runs one experiment, as a plain dict."""

import math
from typing import Any

from evolvent_engineer.backend import pods_of
from evolvent_engineer.kubernetes.identity import MANAGED, Identity
from evolvent_engineer.kubernetes.settings import Box, ClusterSettings, Order
from evolvent_schemas.values import Digest, Stage, canonical, sha256

Manifest = dict[str, Any]
CANDIDATE = "candidate"
EVALUATOR = "evaluator"
FETCH = "fetch"
NOBODYS_FAULT = 75
"""Exit code of a container that could not do its part through no fault of the program or the task (EX_TEMPFAIL)."""
DIGEST_ANNOTATION = "evolvent/order"
WALL_ANNOTATION = "evolvent/wall-seconds"
GROUPED = {"app.kubernetes.io/component": "rank"}
"""Label of pods that train together, by which their Service finds them."""
_JOB_OF_POD = "batch.kubernetes.io/controller-uid"
"""Label that the Job controller gives its pods; unlike the name, no later Job bears it again."""
GPU = "nvidia.com/gpu"
_USER, _CANDIDATE_USER = 65532, 65533
"""Unprivileged ids that no image gives a name; two of them, so that neither container can signal or read the other."""
_PUBLISH_SECONDS = 30
"""For fetching, starting the sandbox and publishing the result, beyond the evaluation itself."""
_PROGRAM_MB = 64
"""Largest program, files of weights included."""
_LOCKED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "privileged": False,
}


def experiment_job(order: Order, settings: ClusterSettings) -> Manifest:
    """Build the Job that runs one experiment. Equal arguments give an equal manifest.

    Source: the hardened Job that a 1.36.2 API server under Pod Security `restricted` took without a warning.

    Raises:
        Refused: the stage asks for what is no number of pods, GPUs or CPUs.
    """
    identity = order.identity
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": identity.name,
            "namespace": settings.namespace,
            "labels": identity.labels() | _queue_labels(settings),
            "annotations": _annotations(order),
        },
        "spec": _job_spec(order, settings),
    }


def _queue_labels(settings: ClusterSettings) -> dict[str, str]:
    if settings.queue is None:
        return {}
    priority = {} if settings.queue_priority is None else {"kueue.x-k8s.io/priority-class": settings.queue_priority}
    return {"kueue.x-k8s.io/queue-name": settings.queue} | priority


def _annotations(order: Order) -> dict[str, str]:
    return {
        "evolvent/experiment": str(order.identity),
        "evolvent/bundle": order.bundle,
        "evolvent/program": order.program,
        WALL_ANNOTATION: str(order.stage.limits.wall_seconds),
        DIGEST_ANNOTATION: _digest(order),
    }


def _digest(order: Order) -> Digest:
    """What is measured and how; not by which image, for an engineer of another release goes on with the same Job."""
    how = [each.model_dump(mode="json") for each in (order.spec, order.stage)]
    return sha256(canonical([str(order.identity), order.bundle, order.program, order.metric, *how]))


def _job_spec(order: Order, settings: ClusterSettings) -> Manifest:
    box = Box.of(order.stage, settings.headroom_mb)
    several = box.pods > 1
    indexed = {"completionMode": "Indexed", "completions": box.pods, "parallelism": box.pods}
    return {
        "suspend": settings.queue is not None,
        "backoffLimit": 0 if several else settings.retries,
        "activeDeadlineSeconds": deadline_seconds(order.stage, settings),
        "ttlSecondsAfterFinished": settings.ttl_seconds,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [_on_disruption(several=several), _fail_on_exit(CANDIDATE), _fail_on_exit(EVALUATOR)]
        },
        "template": _template(order, box, settings),
    } | (indexed if several else {})


def deadline_seconds(stage: Stage, settings: ClusterSettings) -> int:
    """The backstop behind the limits that the pod itself keeps.

    An evaluation may take twice the candidate's wall limit: once for the candidate, once for the evaluator.
    """
    return math.ceil(2 * stage.limits.wall_seconds) + _PUBLISH_SECONDS + settings.start_seconds


def _on_disruption(*, several: bool) -> Manifest:
    """A pod alone is replaced; one of several leaves peers that cannot go on, and that nobody may blame for it."""
    action = "FailJob" if several else "Ignore"
    return {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _fail_on_exit(container: str) -> Manifest:
    return {"action": "FailJob", "onExitCodes": {"containerName": container, "operator": "NotIn", "values": [0]}}


def _template(order: Order, box: Box, settings: ClusterSettings) -> Manifest:
    return {
        "metadata": {"labels": order.identity.labels() | (GROUPED if box.pods > 1 else {})},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": settings.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,  # nothing in it has anything to put away
            "securityContext": _pod_security(),
            "nodeSelector": dict(settings.node_selector),
            "tolerations": _tolerations(box, settings),
            "initContainers": [_fetch(order, settings)],
            "containers": [_evaluator(order, settings), _candidate(order, box, settings)],
            "volumes": _volumes(box, settings),
        }
        | _optional(settings)
        | ({"subdomain": settings.group_service} if box.pods > 1 else {}),
    }


def _optional(settings: ClusterSettings) -> Manifest:
    found = {"priorityClassName": settings.priority_class, "runtimeClassName": settings.runtime_class}
    found["hostUsers"] = None if not settings.user_namespaces else False  # type: ignore[assignment]
    return {key: value for key, value in found.items() if value is not None}


def _pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _tolerations(box: Box, settings: ClusterSettings) -> list[Manifest]:
    gpu = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if box.gpus else []
    return [*gpu, *map(dict, settings.tolerations)]


def _fetch(order: Order, settings: ClusterSettings) -> Manifest:
    """Load both artifacts by digest; the only container that writes where the others read."""
    env = {
        "EVOLVENT_NATS_URL": settings.nats_url,
        "EVOLVENT_BUNDLE": order.bundle,
        "EVOLVENT_PROGRAM": order.program,
    }
    mounts = [_mount("task", "/task"), _mount("program", "/program"), _credentials()]
    size = _resources("1", settings.evaluator_memory_mb, settings.bundle_mb + _PROGRAM_MB + settings.headroom_mb)
    return _container(FETCH, settings, env, mounts, size)


def _evaluator(order: Order, settings: ClusterSettings) -> Manifest:
    """The trusted side: it has the task, the program's text and the key, and no GPU. It never runs the program."""
    env = {
        "EVOLVENT_NATS_URL": settings.nats_url,
        "EVOLVENT_BUNDLE": order.bundle,
        "EVOLVENT_PROGRAM": order.program,
        "EVOLVENT_EXPERIMENT": str(order.identity),
        "EVOLVENT_SPEC": canonical(order.spec.model_dump(mode="json")).decode(),
        "EVOLVENT_STAGE": canonical(order.stage.model_dump(mode="json")).decode(),
        "EVOLVENT_METRIC": order.metric,
        "EVOLVENT_SEED": str(order.identity.seed),
        "EVOLVENT_SANDBOX": settings.within,
        "EVOLVENT_SIGNING_KEY": order.key,
        "NVIDIA_VISIBLE_DEVICES": "void",
    } | _group(order, settings)
    mounts = [
        _mount("task", "/task", read_only=True),
        _mount("program", "/program", read_only=True),
        _mount("socket", "/socket"),
        _mount("evaluator-tmp", "/tmp"),  # noqa: S108 - the container's own, and the only place it can write
        _credentials(),
    ]
    disk_mb = settings.bundle_mb + _PROGRAM_MB + settings.headroom_mb  # the pod's limit is the sum of its containers'
    size = _resources(settings.evaluator_cpu, settings.evaluator_memory_mb, disk_mb)
    return _container(EVALUATOR, settings, env, mounts, size)


def _candidate(order: Order, box: Box, settings: ClusterSettings) -> Manifest:
    """The sandbox: it has the GPU, gets the program through the socket, and has neither the task nor a key."""
    env = {
        "EVOLVENT_SPEC": canonical(order.spec.model_dump(mode="json")).decode(),
        "EVOLVENT_PROFILE": order.stage.profile,
        "EVOLVENT_SANDBOX": settings.within,
    } | _group(order, settings)
    if box.pods > 1:
        host = f"{order.identity.name}-0.{settings.group_service}.{settings.namespace}.svc"
        env |= {"EVOLVENT_GROUP_HOST": host, "EVOLVENT_GROUP_PORT": str(settings.group_port)}
    mounts = [
        _mount("socket", "/socket"),
        _mount("candidate-tmp", "/tmp"),  # noqa: S108
        _mount("candidate-shm", "/dev/shm"),  # noqa: S108
    ]
    size = _resources(str(box.cpus), box.memory_mb, box.disk_mb, box.gpus)
    container = _container(CANDIDATE, settings, env, mounts, size)
    container["securityContext"] |= {"runAsUser": _CANDIDATE_USER, "runAsGroup": _CANDIDATE_USER}
    return container


def _group(order: Order, settings: ClusterSettings) -> dict[str, str]:
    """What both containers know of the other pods. Which pod they are in, the Job controller tells them."""
    pods = pods_of(order.stage)
    return {} if pods == 1 else {"EVOLVENT_PODS": str(pods), "EVOLVENT_GROUP_SECONDS": str(settings.start_seconds)}


def _container(
    name: str, settings: ClusterSettings, env: dict[str, str], mounts: list[Manifest], size: Manifest
) -> Manifest:
    return {
        "name": name,
        "image": settings.image,
        "command": ["python", "-m", "evolvent_engineer.pod", name],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"requests": size, "limits": size},
        "securityContext": dict(_LOCKED),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _resources(cpu: str, memory_mb: int, disk_mb: int, gpus: int = 0) -> Manifest:
    found = {"cpu": cpu, "memory": f"{memory_mb}Mi", "ephemeral-storage": f"{disk_mb}Mi"}
    return found | ({GPU: str(gpus)} if gpus else {})


def _mount(name: str, path: str, *, read_only: bool = False) -> Manifest:
    return {"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {})


def _credentials() -> Manifest:
    return _mount("credentials", "/credentials", read_only=True)


def _volumes(box: Box, settings: ClusterSettings) -> list[Manifest]:
    return [
        {"name": "task", "emptyDir": {"sizeLimit": f"{settings.bundle_mb}Mi"}},
        {"name": "program", "emptyDir": {"sizeLimit": f"{_PROGRAM_MB}Mi"}},
        {"name": "socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "evaluator-tmp", "emptyDir": {"sizeLimit": f"{settings.headroom_mb // 2}Mi"}},
        {"name": "candidate-tmp", "emptyDir": {"sizeLimit": f"{box.disk_mb}Mi"}},
        {"name": "candidate-shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{box.memory_mb // 2}Mi"}},
        {"name": "credentials", "secret": {"secretName": settings.credentials, "defaultMode": 0o440}},
    ]


def peer_policy(job: Manifest) -> Manifest:
    """Let the pods of one stored Job talk to each other, and to no other's; it goes when the Job goes."""
    metadata = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    pods = {"podSelector": {"matchLabels": {_JOB_OF_POD: metadata["uid"]}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": f"{metadata['name']}-{metadata['uid']}",
            "namespace": metadata["namespace"],
            "labels": dict(MANAGED),
            "ownerReferences": [owner],
        },
        "spec": pods
        | {"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [pods]}], "egress": [{"to": [pods]}]},
    }


def same_experiment(found: Manifest, wanted: Manifest) -> bool:
    """Whether a stored Job measures the same."""
    stored = found["metadata"].get("annotations", {}).get(DIGEST_ANNOTATION)
    return bool(stored == wanted["metadata"]["annotations"][DIGEST_ANNOTATION])


def identity_of(job: Manifest) -> Identity | None:
    """The experiment a Job or pod belongs to; none when its labels are not ours."""
    try:
        return Identity.of(job["metadata"].get("labels", {}))
    except (KeyError, ValueError):
        return None
