"""The quota controller: it counts what there is, and until it has, a quota limits nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kubernetes.fake.resources import ALL, QUOTAS

if TYPE_CHECKING:
    from tests.kubernetes.fake.cluster import Cluster
    from tests.kubernetes.fake.store import Change

MANAGER = "kube-controller-manager"
_COUNTED = {f"count/{resource.qualified}": resource for resource in ALL}


class QuotaController:
    """Keeps `status.hard` and, for `count/…` keys, `status.used` of every quota; admission counts for itself.

    Other keys of `used` stay as they were written: nothing here adds up CPUs.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._quotas: set[tuple[str, str]] = set()
        cluster.store.listen(self._on_change)

    def _on_change(self, change: Change) -> None:
        kind, namespace, name = change.key
        if kind == QUOTAS.qualified:
            (self._quotas.discard if change.after is None else self._quotas.add)((namespace, name))
            if change.before is None and not change.final.get("status"):
                self._count_soon(namespace, name)
        elif change.before is None or change.after is None:
            for place in self._quotas:
                if place[0] == namespace:
                    self._count_soon(*place)

    def _count_soon(self, namespace: str, name: str) -> None:
        self._cluster.clock.call_later(0, lambda: self._count(namespace, name))

    def _count(self, namespace: str, name: str) -> None:
        quota = self._cluster.store.peek(QUOTAS, namespace, name)
        if quota is None:
            return
        hard, status = quota["spec"].get("hard", {}), quota.get("status", {})
        used = status.get("used", {}) | {key: self._there(key, namespace) for key in hard.keys() & _COUNTED.keys()}
        quota["status"] = {"hard": hard, "used": used}
        self._cluster.store.update(QUOTAS, quota, MANAGER, "status")

    def _there(self, key: str, namespace: str) -> str:
        return str(len(self._cluster.store.all(_COUNTED[key], namespace)))
