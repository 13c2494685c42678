"""Who may do what, and who may reach whom: computed from the rights and network policies of every rendered overlay."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from evolvent.provision import ROLES
from evolvent_engineer.kubernetes.manifests import experiment_job
from tests.kubernetes.test_kustomize import Manifest, deployments, every_overlay, of_kind, pod
from tests.kubernetes.test_manifests import TRAINING


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


# the network


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or an address outside the cluster."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""

    def selected(self, selector: Manifest) -> bool:
        assert selector.keys() <= {"matchLabels"}
        return not self.address and selector.get("matchLabels", {}).items() <= self.labels.items()

    def within(self, block: Manifest) -> bool:
        if not self.address or ip_address(self.address) not in ip_network(block["cidr"]):
            return False
        return not any(ip_address(self.address) in ip_network(each) for each in block.get("except", ()))


def named(name: str, namespace: str = "evolvent") -> End:
    return End(namespace, {"app.kubernetes.io/name": name})


OUTSIDE = {
    "names": End("kube-system", {"k8s-app": "kube-dns"}),
    "keda": End("keda"),
    "monitoring": End("monitoring"),
    "a stranger's pod": named("evolvent", "elsewhere"),
    "the world": End(address="93.184.216.34"),
    "10/8": End(address="10.96.0.1"),
    "172.16/12": End(address="172.16.0.1"),
    "192.168/16": End(address="192.168.0.1"),
    "the cloud's metadata": End(address="169.254.169.254"),
}
PRIVATE = ("10/8", "172.16/12", "192.168/16")
SERVED = (*ROLES, "provisioner")
OURS = (*SERVED, "nats", "qdrant", "any pod beside the roles")


def ends(overlay: str) -> dict[str, End]:
    """Everything that may want to talk, by the name that the tables below give it."""
    (provision,) = of_kind(overlay, "Job")
    roles = {name: found["spec"]["template"] for name, found in deployments(overlay).items()}
    templates = roles | {"provisioner": provision["spec"]["template"]}
    return {
        **{name: End("evolvent", found["metadata"]["labels"]) for name, found in templates.items()},
        **{name: named(name) for name in ("nats", "qdrant")},
        "any pod beside the roles": End("evolvent"),
        "experiment": End("evolvent-experiments", experiment_job(*TRAINING)["spec"]["template"]["metadata"]["labels"]),
        "any pod beside experiments": End("evolvent-experiments"),
        **OUTSIDE,
    }


def matches(peer: Manifest, end: End, namespace: str) -> bool:
    """Whether a peer of a policy in `namespace` is that end. Source: NetworkPolicyPeer of networking.k8s.io/v1."""
    if "ipBlock" in peer:
        return end.within(peer["ipBlock"])
    there = End(labels={"kubernetes.io/metadata.name": end.namespace})
    near = there.selected(peer["namespaceSelector"]) if "namespaceSelector" in peer else end.namespace == namespace
    return near and end.selected(peer.get("podSelector", {}))


def opens(rule: Manifest, port: int, protocol: str) -> bool:
    given = rule.get("ports")
    assert all(each.keys() <= {"port", "protocol"} for each in given or ())
    pairs = [(each.get("port", port), each.get("protocol", "TCP")) for each in given or ()]
    return not given or (port, protocol) in pairs


def ways(starts: Iterable[str], stops: Iterable[str], *ports: str) -> set[tuple[str, str, str]]:
    return set(itertools.product(starts, stops, ports))


def allowed(overlay: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """From whom, to whom and at which port the policies let traffic out (Egress) or in (Ingress)."""
    policies, known = of_kind(overlay, "NetworkPolicy"), ends(overlay)
    rules, peers = ("egress", "to") if kind == "Egress" else ("ingress", "from")
    for (own, end), (other, peer) in itertools.product(known.items(), known.items()):
        held = [each for each in policies if kind in each["spec"]["policyTypes"] and _holds(each, end)]
        for port, protocol in itertools.product(PORTS, ("TCP", "UDP")):
            if own not in OUTSIDE and (
                not held or any(_lets(each, rules, peers, peer, port, protocol) for each in held)
            ):
                yield (own, other, f"{port}/{protocol}") if kind == "Egress" else (other, own, f"{port}/{protocol}")


def _holds(policy: Manifest, end: End) -> bool:
    return policy["metadata"]["namespace"] == end.namespace and end.selected(policy["spec"]["podSelector"])


def _lets(policy: Manifest, rules: str, peers: str, end: End, port: int, protocol: str) -> bool:
    return any(
        opens(rule, port, protocol)
        and (not rule.get(peers) or any(matches(each, end, policy["metadata"]["namespace"]) for each in rule[peers]))
        for rule in policy["spec"].get(rules, ())
    )


PORTS = (53, 80, 443, 4222, 4318, 6222, 6333, 6334, 6335, 6443, 7777, 8080, 8222, 9999)
LEAVES = (
    ways(OURS, {"names"}, "53/TCP", "53/UDP")
    # by UDP alone: a program that trains over several pods may open TCP sockets, and must not ask the world by names
    | ways({"experiment"}, {"names"}, "53/UDP")
    | ways({*SERVED, "experiment"}, {"nats"}, "4222/TCP")
    | ways(SERVED, {"monitoring"}, "4318/TCP")
    | ways({"researcher", "analyzer", "cognition"}, {"the world"}, "443/TCP")
    | ways({"engineer"}, {"the world", *PRIVATE}, "443/TCP", "6443/TCP")  # the API server may be anywhere
    | ways({"cognition"}, {"qdrant"}, "6333/TCP", "6334/TCP")
    | ways({"nats"}, {"nats"}, "6222/TCP")
    | ways({"qdrant"}, {"qdrant"}, "6335/TCP")
)
ENTERS = (
    ways({*SERVED, "experiment", "any pod beside experiments"}, {"nats"}, "4222/TCP")
    | ways({"keda"}, {"nats"}, "8222/TCP")
    | ways({"monitoring"}, {"nats"}, "7777/TCP")
    | ways({"nats"}, {"nats"}, "6222/TCP")
    | ways({"cognition"}, {"qdrant"}, "6333/TCP", "6334/TCP")
    | ways({"monitoring"}, {"qdrant"}, "6333/TCP")
    | ways({"qdrant"}, {"qdrant"}, "6335/TCP")
)


@pytest.mark.parametrize(("kind", "table"), [("Egress", LEAVES), ("Ingress", ENTERS)])
@every_overlay
def test_what_leaves_and_enters_is_what_the_table_says_and_nothing_else(
    kind: str, table: set[tuple[str, str, str]], overlay: str
) -> None:
    """Each direction alone: policies add up, and one that an operator adds for one side may not open the other."""
    assert table == set(allowed(overlay, kind))


@every_overlay
def test_every_port_that_a_policy_names_is_looked_at(overlay: str) -> None:
    rules = [
        rule
        for found in of_kind(overlay, "NetworkPolicy")
        for kind in ("ingress", "egress")
        for rule in found["spec"].get(kind, ())
    ]
    assert {each["port"] for rule in rules for each in rule["ports"]} < set(PORTS)


@every_overlay
def test_both_namespaces_deny_all_traffic_by_default(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    denying = {
        found["metadata"]["namespace"]
        for found in policies
        if found["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    assert {"evolvent", "evolvent-experiments"} == denying
