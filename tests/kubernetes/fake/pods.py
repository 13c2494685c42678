"""Reading and marking pods."""

from tests.kubernetes.fake.status import Manifest


def ended(pod: Manifest) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def terminating(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def set_condition(pod: Manifest, kind: str, value: bool, stamp: str, **more: object) -> None:
    """Put one pod condition, keeping the place of an older one."""
    found: Manifest = {"type": kind, "status": str(value), "lastProbeTime": None, "lastTransitionTime": stamp} | more
    conditions = pod["status"].setdefault("conditions", [])
    for index, condition in enumerate(conditions):
        if condition["type"] == kind:
            conditions[index] = found
            return
    conditions.append(found)


def disrupt(pod: Manifest, reason: str, message: str, stamp: str) -> None:
    set_condition(pod, "DisruptionTarget", True, stamp, reason=reason, message=message)


def condition(item: Manifest, kind: str) -> Manifest | None:
    """A condition whose status is True."""
    for found in item["status"].get("conditions", []):
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return None
