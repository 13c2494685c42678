"""What the server refuses with 422, and what Pod Security `restricted` objects to."""

import json
import re
from collections.abc import Iterator

from tests.kubernetes.fake.quantities import parse, text
from tests.kubernetes.fake.status import Manifest

Cause = tuple[str, str, str]
_SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_EXAMPLE = "lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"


def name(value: str) -> Iterator[Cause]:
    if not re.fullmatch(_SUBDOMAIN, value):
        rule = f"a lowercase RFC 1123 subdomain must consist of {_EXAMPLE}"
        message = (
            f"Invalid value: \"{value}\": {rule} (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
        )
        yield "FieldValueInvalid", message, "metadata.name"


def labels(found: dict[str, str], field: str) -> Iterator[Cause]:
    for value in found.values():
        if len(value) > 63:
            yield "FieldValueInvalid", f'Invalid value: "{value}": must be no more than 63 bytes', field
        elif not _LABEL_VALUE.fullmatch(value):
            yield "FieldValueInvalid", f'Invalid value: "{value}": a valid label must be alphanumeric', field


def job(item: Manifest) -> list[Cause]:
    """All faults of a Job, in field order."""
    spec = item["spec"]
    template = spec["template"]
    return [
        *name(item["metadata"]["name"]),
        *labels(item["metadata"].get("labels", {}), "metadata.labels"),
        *_shape(spec),
        *labels(template.get("metadata", {}).get("labels", {}), "spec.template.labels"),
        *_restart(template["spec"]),
        *_policy(spec),
        *pod_spec(template["spec"], "spec.template.spec"),
    ]


def _shape(spec: Manifest) -> Iterator[Cause]:
    if spec["completionMode"] == "Indexed" and "completions" not in spec:
        yield "FieldValueRequired", "Required value: when completion mode is Indexed", "spec.completions"
    for key in ("activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit"):
        if spec.get(key, 0) < 0:
            message = f"Invalid value: {spec[key]}: must be greater than or equal to 0"
            yield "FieldValueInvalid", message, f"spec.{key}"


def _restart(spec: Manifest) -> Iterator[Cause]:
    if spec["restartPolicy"] == "Always":
        message = 'Required value: valid values: "OnFailure", "Never"'
        yield "FieldValueRequired", message, "spec.template.spec.restartPolicy"


def _policy(spec: Manifest) -> Iterator[Cause]:
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    pod = spec["template"]["spec"]
    if rules and pod["restartPolicy"] != "Never":
        message = (
            f'Invalid value: "{pod["restartPolicy"]}": only "Never" is supported when podFailurePolicy is specified'
        )
        yield "FieldValueInvalid", message, "spec.template.spec.restartPolicy"
    names = {container["name"] for container in pod.get("initContainers", []) + pod["containers"]}
    for index, rule in enumerate(rules):
        codes = rule.get("onExitCodes", {})
        field = f"spec.podFailurePolicy.rules[{index}].onExitCodes"
        if codes.get("containerName", next(iter(names))) not in names:
            message = f'Invalid value: "{codes["containerName"]}": must be one of the container or initContainer names'
            yield "FieldValueInvalid", message, f"{field}.containerName"
        if codes.get("operator") == "In" and 0 in codes["values"]:
            message = "Invalid value: 0: must not be 0 for the In operator"
            yield "FieldValueInvalid", message, f"{field}.values[0]"


def pod_spec(spec: Manifest, field: str) -> Iterator[Cause]:
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group, [])):
            at = f"{field}.{group}[{index}]"
            yield from _extended(container.get("resources", {}), f"{at}.resources")
            for number, mount in enumerate(container.get("volumeMounts", [])):
                if mount["name"] not in volumes:
                    yield "FieldValueNotFound", f'Not found: "{mount["name"]}"', f"{at}.volumeMounts[{number}].name"


def _extended(resources: Manifest, field: str) -> Iterator[Cause]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for key in sorted({key for key in [*limits, *requests] if "/" in key}):
        if key in limits and parse(limits[key]) % 1:
            message = f'Invalid value: "{text(limits[key])}": must be an integer'
            yield "FieldValueInvalid", message, f"{field}.limits[{key}]"
        elif key in requests and requests[key] != limits.get(key):
            message = f'Invalid value: "{requests[key]}": must be equal to {key} limit of {limits.get(key, 0)}'
            yield "FieldValueInvalid", message, f"{field}.requests"
    for key in sorted(requests.keys() & limits.keys()):
        if "/" not in key and parse(requests[key]) > parse(limits[key]):
            message = f'Invalid value: "{requests[key]}": must be less than or equal to {key} limit of {limits[key]}'
            yield "FieldValueInvalid", message, f"{field}.requests"


def immutable(before: Manifest, after: Manifest) -> list[Cause]:
    """A Job's template, selector and completions stay, unless it is suspended and never started."""
    if before["spec"]["template"] == after["spec"]["template"]:
        return []
    if before["spec"]["suspend"] and "startTime" not in before["status"]:
        return []
    shown = json.dumps(after["spec"]["template"], separators=(",", ":"))
    return [("FieldValueInvalid", f"Invalid value: {shown}: field is immutable", "spec.template")]


def restricted(spec: Manifest) -> str:
    """Violations of Pod Security `restricted:latest`, in the server's words; empty when there are none.

    Source: the checks of k8s.io/pod-security-admission/policy, but those of ports, SELinux, AppArmor, sysctls,
    `procMount` and Windows, which nothing of ours sets.
    """
    found = [
        _host(spec),
        _every(
            spec,
            lambda c: not _context(c).get("privileged"),
            "privileged",
            "must not set securityContext.privileged=true",
        ),
        _every(
            spec,
            lambda c: _context(c).get("allowPrivilegeEscalation") is False,
            "allowPrivilegeEscalation != false",
            "must set securityContext.allowPrivilegeEscalation=false",
        ),
        _every(
            spec,
            lambda c: "ALL" in _context(c).get("capabilities", {}).get("drop", []),
            "unrestricted capabilities",
            'must set securityContext.capabilities.drop=["ALL"]',
        ),
        _every(
            spec,
            lambda c: {"NET_BIND_SERVICE"} >= set(_context(c).get("capabilities", {}).get("add", [])),
            "unrestricted capabilities",
            "must not add what it may not have",
        ),
        _volumes(spec),
        _inherited(
            spec,
            lambda s: s.get("runAsNonRoot") is True,
            "runAsNonRoot != true",
            "must set securityContext.runAsNonRoot=true",
        ),
        _root(spec),
        _inherited(
            spec,
            lambda s: s.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "seccompProfile",
            'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"',
        ),
    ]
    return ", ".join(filter(None, found))


def _host(spec: Manifest) -> str:
    shared = [f"{name}=true" for name in ("hostIPC", "hostNetwork", "hostPID") if spec.get(name)]
    return f"host namespaces ({', '.join(shared)})" if shared else ""


def _volumes(spec: Manifest) -> str:
    bad = [volume["name"] for volume in spec.get("volumes", []) if not volume.keys() & _VOLUMES]
    return f"restricted volume types ({', '.join(bad)})" if bad else ""


def _root(spec: Manifest) -> str:
    at_pod = (
        "runAsUser=0 (pod must not set runAsUser=0)" if spec.get("securityContext", {}).get("runAsUser") == 0 else ""
    )
    return at_pod or _every(
        spec, lambda c: _context(c).get("runAsUser") != 0, "runAsUser=0", "must not set runAsUser=0"
    )


def _containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def _context(container: Manifest) -> Manifest:
    found: Manifest = container.get("securityContext", {})
    return found


def _quoted(names: list[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"container {listed}" if len(names) == 1 else f"containers {listed}"


def _every(spec: Manifest, good: object, title: str, remedy: str) -> str:
    bad = [container["name"] for container in _containers(spec) if not good(container)]  # type: ignore[operator]
    return f"{title} ({_quoted(bad)} {remedy})" if bad else ""


def _inherited(spec: Manifest, good: object, title: str, remedy: str) -> str:
    shared = spec.get("securityContext", {})
    if good(shared):  # type: ignore[operator]
        return _every(spec, lambda c: good(shared | _context(c)), title, remedy)  # type: ignore[operator]
    bad = [container["name"] for container in _containers(spec) if not good(_context(container))]  # type: ignore[operator]
    return f"{title} (pod or {_quoted(bad)} {remedy})" if bad else ""
