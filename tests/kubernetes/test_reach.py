"""What an operator lets through: rights before the API server, computed from every rendered overlay."""

import itertools

from tests.kubernetes.test_kustomize import Manifest, deployments, every_overlay, of_kind, pod


def powers(role: Manifest) -> set[tuple[str, str, str]]:
    """Group, resource and verb of everything that a role allows."""
    found = set()
    for rule in role["rules"]:
        assert {"apiGroups", "resources", "verbs"} == set(rule)
        found |= set(itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"]))
    return found


@every_overlay
def test_only_the_engineer_has_rights_and_those_are_exactly_what_its_client_asks(overlay: str) -> None:
    """Among them neither Secrets nor pods that it could make or enter."""
    roles = {
        (found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]): powers(found)
        for kind in ("Role", "ClusterRole")
        for found in of_kind(overlay, kind)
    }
    held = [
        (subject["kind"], subject["namespace"], subject["name"], found["metadata"].get("namespace"), found["roleRef"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for found in of_kind(overlay, kind)
        for subject in found["subjects"]
    ]
    everything = {("batch", "jobs", verb) for verb in ("create", "get", "list", "watch", "delete", "deletecollection")}
    everything |= {("", "pods", verb) for verb in ("get", "list", "watch")}
    everything |= {("networking.k8s.io", "networkpolicies", "create")}
    assert {("Role", "evolvent-experiments", "jobs-engineer"): everything} == roles
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "jobs-engineer"}
    account = pod(deployments(overlay)["engineer"])["serviceAccountName"]
    assert [("ServiceAccount", "evolvent", account, "evolvent-experiments", role)] == held
    assert {"engineer"} == {
        name for name, each in deployments(overlay).items() if account == pod(each)["serviceAccountName"]
    }


@every_overlay
def test_only_the_engineer_is_given_a_token_of_the_api_server(overlay: str) -> None:
    with_token = {name for name, found in deployments(overlay).items() if pod(found)["automountServiceAccountToken"]}
    assert {"engineer"} == with_token
