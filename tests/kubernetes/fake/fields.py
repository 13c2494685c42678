"""Who owns which field: the bookkeeping behind `managedFields` and server-side apply."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes.fake import schema
from tests.kubernetes.fake.resources import Resource
from tests.kubernetes.fake.schema import Schema
from tests.kubernetes.fake.status import ApiError, Manifest

Path = tuple[str, ...]
Leaves = dict[Path, Any]
_ALWAYS_THERE = {
    (),
    ("f:metadata",),
    ("f:spec",),
    ("f:status",),
    ("f:spec", "f:template"),
    ("f:spec", "f:template", "f:metadata"),
    ("f:spec", "f:template", "f:spec"),
}
"""Structs that even an empty object has, so that nobody comes to own them."""
_SYSTEM = {
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
}


def leaves(resource: Resource, item: Manifest) -> Leaves:
    """Flatten an object to its ownable paths; a `.` path stands for a map or list item as such."""
    found: Leaves = {}
    body = {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
    metadata = {key: value for key, value in item.get("metadata", {}).items() if key not in _SYSTEM}
    body["metadata"] = metadata
    _walk(schema.of(resource), body, (), found)
    return found


def leaves_again(resource: Resource, item: Manifest, before: Manifest, known: Leaves) -> Leaves:
    """The same as `leaves`, sparing the specification when it is that of `before`, whose leaves are known."""
    if item.get("spec") is None or item["spec"] != before.get("spec"):
        return leaves(resource, item)
    rest = leaves(resource, {key: value for key, value in item.items() if key != "spec"})
    return {path: value for path, value in known.items() if path[0] == "f:spec"} | rest


def _walk(kind: Schema, value: Any, path: Path, found: Leaves) -> None:
    if isinstance(value, dict) and kind.get("x-kubernetes-map-type") != "atomic":
        _walk_map(kind, value, path, found)
    elif isinstance(value, list) and kind.get("x-kubernetes-list-type") in ("map", "set"):
        _walk_list(kind, value, path, found)
    else:
        found[path] = value


def _walk_map(kind: Schema, value: dict[str, Any], path: Path, found: Leaves) -> None:
    if path not in _ALWAYS_THERE:
        found[path if not value else (*path, ".")] = {}
    for key, item in value.items():
        _walk(schema.child(kind, key), item, (*path, f"f:{key}"), found)


def _walk_list(kind: Schema, value: list[Any], path: Path, found: Leaves) -> None:
    keys = kind.get("x-kubernetes-list-map-keys")
    if path[-1] != "f:containers":  # the only required list here: present in every object
        found[(*path, ".")] = {}
    for item in value:
        if keys is None:
            found[(*path, f"v:{json.dumps(item)}")] = item
        else:
            name = json.dumps({key: item[key] for key in keys if key in item}, separators=(",", ":"))
            _walk(schema.items(kind), item, (*path, f"k:{name}"), found)


@dataclass
class Owner:
    """One entry of `managedFields`."""

    manager: str
    operation: str
    subresource: str
    time: str
    paths: set[Path] = field(default_factory=set)
    rendered: Manifest | None = None
    """The entry as last shown; none once a path or the time has changed."""


@dataclass
class Ownership:
    """All entries of one object."""

    owners: dict[tuple[str, str, str], Owner] = field(default_factory=dict)

    def update(self, before: Leaves, after: Leaves, manager: str, subresource: str, time: str) -> None:
        """Give whatever changed to its writer (nobody when it has no name), and drop what is gone."""
        changed = {path for path, value in after.items() if path not in before or before[path] != value}
        if changed and manager:
            self._take(changed, manager, "Update", subresource, time)
        self._forget(after)

    def apply(self, wanted: Leaves, live: Leaves, manager: str, time: str) -> None:
        """Server-side apply: own exactly the applied fields.

        Raises:
            ApiError: 409, another manager owns a field with another value.
        """
        self._refuse_conflicts(wanted, live, manager)
        paths = {path for path in wanted if path[-1] != "." or path[-2].startswith("k:")}
        self.owners[manager, "Apply", ""] = Owner(manager, "Apply", "", time, paths)

    def _refuse_conflicts(self, wanted: Leaves, live: Leaves, manager: str) -> None:
        conflicts = [
            (owner.manager, "".join(_dotted(part) for part in path))
            for owner in self.owners.values()
            for path, value in wanted.items()
            if owner.manager != manager and path in owner.paths and live.get(path, value) != value
        ]
        if not conflicts:
            return
        causes = [
            {"reason": "FieldManagerConflict", "message": f'conflict with "{other}"', "field": path}
            for other, path in conflicts
        ]
        listed = ", ".join(f'conflict with "{other}": {path}' for other, path in conflicts)
        plural = "conflict" if len(conflicts) == 1 else "conflicts"
        message = f"Apply failed with {len(conflicts)} {plural}: {listed}"
        raise ApiError(409, "Conflict", message, details={"causes": causes})

    def _take(self, paths: set[Path], manager: str, operation: str, subresource: str, time: str) -> None:
        for owner in self.owners.values():
            if owner.operation == "Update" and owner.paths & paths:
                owner.paths -= paths
                owner.rendered = None
        mine = self.owners.setdefault((manager, operation, subresource), Owner(manager, operation, subresource, time))
        mine.paths |= paths
        mine.time = time
        mine.rendered = None

    def _forget(self, after: Leaves) -> None:
        maps = {path[:-1] for path in after if path[-1] == "."}
        for key, owner in list(self.owners.items()):
            kept = {path for path in owner.paths if path in after or path in maps}
            if kept != owner.paths:
                owner.paths, owner.rendered = kept, None
            if not owner.paths:
                del self.owners[key]

    def render(self, api_version: str) -> list[Manifest]:
        ordered = sorted(self.owners.values(), key=lambda owner: (owner.operation, owner.time, owner.manager))
        return [_entry(owner, api_version) for owner in ordered]


def _entry(owner: Owner, api_version: str) -> Manifest:
    if owner.rendered is None:
        owner.rendered = _render(owner, api_version)
    return owner.rendered


def _render(owner: Owner, api_version: str) -> Manifest:
    entry = {"manager": owner.manager, "operation": owner.operation, "apiVersion": api_version, "time": owner.time}
    tree: Manifest = {}
    for path in sorted(owner.paths):
        node = tree
        for part in path:
            node = node.setdefault(part, {})
    found: Manifest = entry | {"fieldsType": "FieldsV1", "fieldsV1": tree}
    return found | {"subresource": owner.subresource} if owner.subresource else found


def _dotted(part: str) -> str:
    return f".{part[2:]}" if part.startswith("f:") else f"[{part[2:]}]"
