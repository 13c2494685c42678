"""etcd and the watch cache: objects under one global version, and the log of their changes."""

import base64
import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from tests.kubernetes.fake.clock import Clock
from tests.kubernetes.fake.fields import Leaves, Ownership, leaves, leaves_again
from tests.kubernetes.fake.resources import Resource
from tests.kubernetes.fake.status import ApiError, Manifest, bad_request, clone, expired

Key = tuple[str, str, str]
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True)
class Change:
    """One entry of the log; `before` is none for a creation, `after` none for a removal."""

    version: int
    key: Key
    before: Manifest | None
    after: Manifest | None
    final: Manifest
    """What a watcher is shown: the object at this version."""


class Store:
    """All objects. Every write is one version and one log entry; readers get copies."""

    def __init__(self, clock: Clock, *, start: int = 200, seed: int = 0, track_fields: bool = True) -> None:
        """`track_fields`: keep `managedFields`, which cost as much as everything else together."""
        self._track_fields = track_fields
        self.clock = clock
        self.version = start
        self.compacted = 0
        self._random = random.Random(seed)
        self._objects: dict[Key, Manifest] = {}
        self._owners: dict[str, Ownership] = {}
        self._leaves: dict[str, Leaves] = {}
        self._log: deque[Change] = deque()
        self._listeners: dict[int, Callable[[Change], None]] = {}
        self._ids = itertools.count()

    def uid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def suffix(self) -> str:
        """Five characters, as appended to a generated name."""
        return "".join(self._random.choices(_SUFFIX, k=5))

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call `listener` with every change from now on; the result ends it."""
        number = next(self._ids)
        self._listeners[number] = listener
        return lambda: self._listeners.pop(number, None) and None

    def peek(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        found = self._objects.get((resource.qualified, namespace, name))
        return clone(found) if found is not None else None

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        """Read one object.

        Raises:
            ApiError: 404.
        """
        found = self.peek(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def all(self, resource: Resource, namespace: str = "") -> list[Manifest]:
        """The stored objects themselves, by namespace and name: do not change them."""
        rows = [(key, item) for key, item in self._objects.items() if key[0] == resource.qualified]
        return [item for key, item in sorted(rows, key=lambda row: row[0]) if namespace in ("", key[1])]

    def create(self, resource: Resource, item: Manifest, manager: str, owned: Manifest | None = None) -> Manifest:
        """Store a new object; `owned` is the part its creator owns.

        Raises:
            ApiError: 409, the name is taken.
        """
        key = _key(resource, item)
        if key in self._objects:
            message = f'{resource.qualified} "{key[2]}" already exists'
            raise ApiError(409, "AlreadyExists", message, details=resource.details(key[2]))
        self._owners[item["metadata"]["uid"]] = ownership = Ownership()
        ownership.update({}, self._flat(resource, owned or item), manager, "", self.clock.stamp())
        return self._write(resource, key, None, item)

    def preview(self, resource: Resource, item: Manifest, manager: str, owned: Manifest) -> Manifest:
        """What `create` would answer, storing nothing."""
        ownership = Ownership()
        ownership.update({}, leaves(resource, owned), manager, "", self.clock.stamp())
        shown = clone(item)
        shown["metadata"]["managedFields"] = ownership.render(resource.api_version)
        return shown

    def update(self, resource: Resource, item: Manifest, manager: str, subresource: str = "") -> Manifest:
        """Replace an object; an unchanged one stays at its version.

        Raises:
            ApiError: 404 gone, 409 the version given is not the stored one.
        """
        key = _key(resource, item)
        before = self._objects.get(key)
        if before is None:
            raise not_found(resource, key[2])
        self._refuse_stale(resource, item, before)
        if _content(before) == _content(item):
            return clone(before)
        uid = before["metadata"]["uid"]
        after = leaves_again(resource, item, before, self._leaves[uid]) if self._track_fields else {}
        self._owners[uid].update(self._leaves[uid], after, manager, subresource, self.clock.stamp())
        return self._write(resource, key, before, item, after)

    def apply(self, resource: Resource, wanted: Manifest, item: Manifest, manager: str, *, new: bool) -> Manifest:
        """Server-side apply of `wanted`, of which `item` is the merged object."""
        uid = item["metadata"]["uid"]
        ownership = Ownership() if new else self._owners[uid]
        ownership.apply(leaves(resource, wanted), self._leaves.get(uid, {}), manager, self.clock.stamp())
        self._owners[uid] = ownership
        key = _key(resource, item)
        return self._write(resource, key, self._objects.get(key), item)

    def _refuse_stale(self, resource: Resource, item: Manifest, before: Manifest) -> None:
        given = item["metadata"].get("resourceVersion", "")
        if given and given != before["metadata"]["resourceVersion"]:
            name = item["metadata"]["name"]
            text = "the object has been modified; please apply your changes to the latest version and try again"
            message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {text}'
            raise ApiError(409, "Conflict", message, details=resource.details(name))

    def _flat(self, resource: Resource, item: Manifest) -> Leaves:
        return leaves(resource, item) if self._track_fields else {}

    def _write(
        self, resource: Resource, key: Key, before: Manifest | None, item: Manifest, known: Leaves | None = None
    ) -> Manifest:
        self.version += 1
        item = clone(item)
        metadata = item["metadata"]
        metadata["resourceVersion"] = str(self.version)
        uid = metadata["uid"]
        self._leaves[uid] = self._flat(resource, item) if known is None else known
        if self._track_fields:
            metadata["managedFields"] = self._owners[uid].render(resource.api_version)
        self._objects[key] = item
        self._record(Change(self.version, key, before, item, item))
        return clone(item)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete at once; nothing happens when the object is gone already."""
        before = self._objects.pop((resource.qualified, namespace, name), None)
        if before is None:
            return
        self.version += 1
        uid = before["metadata"]["uid"]
        self._owners.pop(uid, None)
        self._leaves.pop(uid, None)
        final = before | {"metadata": before["metadata"] | {"resourceVersion": str(self.version)}}
        self._record(Change(self.version, (resource.qualified, namespace, name), before, None, final))

    def _record(self, change: Change) -> None:
        self._log.append(change)
        for listener in list(self._listeners.values()):
            listener(change)

    def compact(self) -> None:
        """Forget the log, so that every older version is expired."""
        self._log.clear()
        self.compacted = self.version

    def since(self, version: int) -> Iterator[Change]:
        """The log after `version`.

        Raises:
            ApiError: 410, compacted.
        """
        if version < self.compacted:
            raise expired(f"too old resource version: {version} ({self.compacted})")
        return iter([change for change in self._log if change.version > version])

    def snapshot(self, resource: Resource, version: int) -> dict[Key, Manifest]:
        """The objects as they stood at `version`.

        Raises:
            ApiError: 410, compacted.
        """
        if version < self.compacted:
            raise expired("The resourceVersion for the provided list is too old.")
        found = {key: item for key, item in self._objects.items() if key[0] == resource.qualified}
        for change in reversed([c for c in self._log if c.version > version and c.key[0] == resource.qualified]):
            if change.before is None:
                found.pop(change.key, None)
            else:
                found[change.key] = change.before
        return found


def _key(resource: Resource, item: Manifest) -> Key:
    return resource.qualified, item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _content(item: Manifest) -> Manifest:
    metadata = {k: v for k, v in item["metadata"].items() if k not in ("resourceVersion", "managedFields")}
    return item | {"metadata": metadata}


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', details=resource.details(name))


def continue_token(version: int, start: str) -> str:
    """The token of the recorded server: base64url without padding of its JSON."""
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": f"{start}\0"}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def read_continue(token: str) -> tuple[int, str]:
    """Version and last name of a token.

    Raises:
        ApiError: 400, not one of ours.
    """
    try:
        found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(found["rv"]), str(found["start"]).rstrip("\0")
    except (ValueError, KeyError, TypeError) as error:
        text = "invalid character 'i' looking for beginning of value"
        raise bad_request(f"invalid continue token: continue key is not valid: {text}") from error
