"""The scheduler: binds pods to nodes by GPU, CPU and memory, and preempts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.kubernetes.fake.pods import ended, set_condition, terminating
from tests.kubernetes.fake.quantities import parse
from tests.kubernetes.fake.resources import PODS
from tests.kubernetes.fake.status import Manifest

if TYPE_CHECKING:
    from tests.kubernetes.fake.cluster import Cluster
    from tests.kubernetes.fake.store import Change, Key

MANAGER = "kube-scheduler"
Amounts = dict[str, Decimal]


@dataclass
class Node:
    """One machine."""

    name: str
    gpus: int = 8
    cpu: int = 64
    memory: str = "512Gi"
    disk: str = "4Ti"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str], ...] = ()
    """`(key, value)`, all with effect NoSchedule."""
    ready: bool = True

    def capacity(self) -> Amounts:
        room = {"cpu": Decimal(self.cpu), "memory": parse(self.memory), "ephemeral-storage": parse(self.disk)}
        return room | {"nvidia.com/gpu": Decimal(self.gpus)}


class Scheduler:
    """One pass over the waiting pods whenever something changed, most important first."""

    def __init__(self, cluster: Cluster, nodes: list[Node]) -> None:
        self._cluster = cluster
        self._nodes = {node.name: node for node in nodes}
        self._bound: dict[Key, tuple[str, Amounts, int]] = {}
        self._waiting: dict[Key, None] = {}
        self._due = False
        cluster.store.listen(self._on_change)

    def node(self, name: str) -> Node:
        return self._nodes[name]

    def _on_change(self, change: Change) -> None:
        if change.key[0] != PODS.qualified:
            return
        pod = change.after
        if pod is None or ended(pod):
            freed = self._bound.pop(change.key, None) is not None
            self._waiting.pop(change.key, None)
            self._wake() if freed else None
        elif "nodeName" not in pod["spec"] and change.before is None:
            self._waiting[change.key] = None
            self._wake()

    def _wake(self) -> None:
        if not self._due:
            self._due = True
            self._cluster.clock.call_later(0, self._pass)

    def _pass(self) -> None:
        self._due = False
        room = {name: self._free(node) for name, node in self._nodes.items()}
        pods = [self._cluster.store.peek(PODS, key[1], key[2]) for key in self._waiting]
        live = [pod for pod in pods if pod is not None and not terminating(pod)]
        hopeless: dict[str, str] = {}
        for pod in sorted(live, key=lambda pod: -pod["spec"]["priority"]):
            shape = json.dumps(
                [_needs(pod), pod["spec"]["priority"], pod["spec"].get("nodeSelector")], default=str, sort_keys=True
            )
            if shape not in hopeless and (reason := self._place(pod, room)):
                hopeless[shape] = reason
            if shape in hopeless:
                self._refuse(pod, hopeless[shape])

    def _free(self, node: Node, *, below: int | None = None) -> Amounts:
        free = node.capacity()
        for name, needs, priority in self._bound.values():
            if name == node.name and (below is None or priority >= below):
                for key, amount in needs.items():
                    free[key] = free.get(key, Decimal(0)) - amount
        return free

    def _place(self, pod: Manifest, room: dict[str, Amounts]) -> str:
        """Bind the pod and return nothing, or say why it stays."""
        needs = _needs(pod)
        reasons: Counter[str] = Counter()
        for node in self._nodes.values():
            lacking = _misfit(pod, node) or _lacking(needs, room[node.name])
            if not lacking:
                self._bind(pod, node, needs)
                room[node.name] = {key: free - needs.get(key, Decimal(0)) for key, free in room[node.name].items()}
                return ""
            reasons.update(lacking)
        if self._preempt(pod, needs):
            return "preempting"
        total = len(self._nodes)
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        helpless = f"preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
        return f"0/{total} nodes are available: {listed}. no new claims to deallocate, {helpless}"

    def _bind(self, pod: Manifest, node: Node, needs: Amounts) -> None:
        key = (PODS.qualified, pod["metadata"]["namespace"], pod["metadata"]["name"])
        self._waiting.pop(key, None)
        self._bound[key] = (node.name, needs, pod["spec"]["priority"])
        pod["spec"]["nodeName"] = node.name
        set_condition(pod, "PodScheduled", True, self._cluster.clock.stamp())
        self._cluster.store.update(PODS, pod, "")  # the binding call owns no fields

    def _preempt(self, pod: Manifest, needs: Amounts) -> bool:
        priority = pod["spec"]["priority"]
        for node in self._nodes.values():
            if _misfit(pod, node) or _lacking(needs, self._free(node, below=priority)):
                continue
            for key, (name, _, other) in list(self._bound.items()):
                if name == node.name and other < priority and _lacking(needs, self._free(node)):
                    self._bound.pop(key)
                    self._cluster.preempt(key[1], key[2])
            self._wake()
            return True
        return False

    def _refuse(self, pod: Manifest, message: str) -> None:
        known = [found for found in pod["status"].get("conditions", []) if found["type"] == "PodScheduled"]
        if known and known[0].get("message") == message:
            return
        stamp = self._cluster.clock.stamp()
        set_condition(pod, "PodScheduled", False, stamp, reason="Unschedulable", message=message, observedGeneration=1)
        self._cluster.store.update(PODS, pod, MANAGER, "status")


def _needs(pod: Manifest) -> Amounts:
    total: Amounts = {}
    for container in pod["spec"]["containers"]:
        for key, quantity in container["resources"].get("requests", {}).items():
            if key != "ephemeral-storage":
                total[key] = total.get(key, Decimal(0)) + parse(quantity)
    return total


def _lacking(needs: Amounts, free: Amounts) -> list[str]:
    return [f"Insufficient {key}" for key, amount in needs.items() if amount > free.get(key, Decimal(0))]


def _misfit(pod: Manifest, node: Node) -> list[str]:
    if not node.ready:
        return ["node(s) had untolerated taint(s)"]
    wanted = pod["spec"].get("nodeSelector", {})
    if any(node.labels.get(key) != value for key, value in wanted.items()):
        return ["node(s) didn't match Pod's node affinity/selector"]
    tolerated = [
        toleration for toleration in pod["spec"]["tolerations"] if toleration.get("effect") in (None, "NoSchedule")
    ]
    for key, value in node.taints:
        if not any(
            t.get("key") in (None, key) and (t.get("operator") == "Exists" or t.get("value") == value)
            for t in tolerated
        ):
            return ["node(s) had untolerated taint(s)"]
    return []
