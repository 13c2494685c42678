"""What the server fills in before it stores an object."""

from collections.abc import Callable
from typing import Any

from tests.kubernetes.fake.status import Manifest

TRACKING = "batch.kubernetes.io/job-tracking"


def job(item: Manifest) -> None:
    """Defaults of batch/v1 Job, in place."""
    spec = item["spec"]
    spec.setdefault("parallelism", 1)
    if spec.get("completionMode") != "Indexed":
        spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 2**31 - 1 if "backoffLimitPerIndex" in spec else 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        for condition in rule.get("onPodConditions", []):
            condition.setdefault("status", "True")
    if not spec.get("manualSelector"):
        spec["manualSelector"] = False
    pod_spec(spec["template"].setdefault("spec", {}))


def job_identity(item: Manifest) -> None:
    """Selector and template labels, which nobody owns because they are set after defaulting."""
    uid, name = item["metadata"]["uid"], item["metadata"]["name"]
    template = item["spec"]["template"].setdefault("metadata", {})
    template["labels"] = template.get("labels", {}) | {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    item["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    item["metadata"]["generation"] = 1
    item["status"] = {}


def pod_spec(spec: Manifest) -> None:
    """Defaults of a pod template, in place."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for volume in spec.get("volumes", []):
        _volume(volume)
    for container in spec.get("initContainers", []) + spec.get("containers", []):
        _container(container)


def _container(item: Manifest) -> None:
    image = item.get("image", "").rsplit("/", 1)[-1]
    latest = "@" not in image and (":" not in image or image.endswith(":latest"))
    item.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    item.setdefault("terminationMessagePath", "/dev/termination-log")
    item.setdefault("terminationMessagePolicy", "File")
    item.setdefault("resources", {})


def _volume(item: Manifest) -> None:
    for kind in ("secret", "configMap", "projected"):
        if kind in item:
            item[kind].setdefault("defaultMode", 0o644)


def pod(item: Manifest, priorities: Callable[[str], int]) -> None:
    """Defaults and admission of a pod, in place."""
    spec = item["spec"]
    pod_spec(spec)
    for container in spec.get("initContainers", []) + spec["containers"]:
        resources = container["resources"]
        if "limits" in resources:
            resources["requests"] = resources["limits"] | resources.get("requests", {})
    spec["priority"] = priorities(spec.get("priorityClassName", ""))
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(toleration.get("key") == key for toleration in tolerations):
            toleration = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            tolerations.append(toleration)
    item["metadata"]["generation"] = 1
    item["status"] = {"phase": "Pending", "qosClass": _quality(spec)}


def _quality(spec: Manifest) -> str:
    resources = [container["resources"] for container in spec["containers"]]
    computed = [{k: v for k, v in r.get("limits", {}).items() if k in ("cpu", "memory")} for r in resources]
    requested = [{k: v for k, v in r.get("requests", {}).items() if k in ("cpu", "memory")} for r in resources]
    if not any(computed) and not any(requested):
        return "BestEffort"
    guaranteed = all(len(limit) == 2 for limit in computed) and computed == requested
    return "Guaranteed" if guaranteed else "Burstable"


def namespace(item: Manifest) -> None:
    """Name label before ownership is computed."""
    labels = item["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = item["metadata"]["name"]


def bare(item: Manifest) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}


def pod_conditions(item: Manifest) -> None:
    """A time that is not known is written as null, also where a patch took it away."""
    for condition in item["status"].get("conditions", []):
        condition.setdefault("lastProbeTime", None)
