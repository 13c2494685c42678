"""A kubelet for a control plane that has none: one node over HTTP, whose pods play scripts instead of containers."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus

import aiohttp

from tests.kubernetes.fake import Node, Script
from tests.kubernetes.fake.playing import KILLED, begin, end, evict, wait
from tests.kubernetes.fake.pods import ended, terminating
from tests.kubernetes.fake.status import Manifest

Choose = Callable[[Manifest, int], Script]
_MERGE, _STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
_BEAT_SECONDS = 10.0
"""As often as a kubelet says that it lives; the node's controller waits for 40 s and more."""


def annotated(pod: Manifest, _: int) -> Script:
    """What the pod's own annotations say."""
    return Script.of_annotations(pod["metadata"].get("annotations", {}))


class StandIn:
    """Plays what `choose` says for the n-th pod of its owner, counted from 0."""

    def __init__(self, session: aiohttp.ClientSession, node: Node, choose: Choose = annotated) -> None:
        """`session`: an administrator's."""
        self._session = session
        self._node = node
        self._choose = choose
        self._numbers: Counter[str] = Counter()
        self._playing: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be there as long as the block runs; a failure of the stand-in ends it."""
        await self._register()
        try:
            async with asyncio.TaskGroup() as group:
                services = [group.create_task(self._beat()), group.create_task(self._follow(group))]
                yield
                for task in (*services, *self._playing.values()):
                    task.cancel()
        finally:
            await self._send("DELETE", f"/api/v1/nodes/{self._node.name}")

    async def _register(self) -> None:
        metadata = {"name": self._node.name, "labels": dict(self._node.labels)}
        await self._send(
            "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}}
        )
        await self._send_beat()
        # A new node is tainted until its controller has seen it, and not every control plane has that controller.
        await self._send("PATCH", f"/api/v1/nodes/{self._node.name}", {"spec": {"taints": None}}, _MERGE)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            await self._send_beat()

    async def _send_beat(self) -> None:
        room = {name: str(amount) for name, amount in self._node.capacity().items()} | {"pods": "1000"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await self._send("PATCH", f"/api/v1/nodes/{self._node.name}/status", {"status": status}, _STRATEGIC)

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        """Watch from the present, again and again: a pod that is shown twice is known."""
        query = {"watch": "true", "fieldSelector": f"spec.nodeName={self._node.name}"}
        while True:
            async with self._session.get("/api/v1/pods", params=query) as stream:
                stream.raise_for_status()
                with suppress(aiohttp.ClientPayloadError):
                    async for line in stream.content:
                        self._on_event(group, json.loads(line))

    def _on_event(self, group: asyncio.TaskGroup, event: Manifest) -> None:
        pod = event["object"]
        if event["type"] not in ("ADDED", "MODIFIED") or ended(pod):
            return
        uid = pod["metadata"]["uid"]
        if terminating(pod) and uid not in self._stopped:
            self._stopped.add(uid)
            group.create_task(self._stop(pod))
        elif not terminating(pod) and uid not in self._playing:
            self._playing[uid] = group.create_task(self._play(pod, self._script(pod)))

    def _script(self, pod: Manifest) -> Script:
        owners = pod["metadata"].get("ownerReferences", [pod["metadata"]])
        number = self._numbers[owners[0]["uid"]]
        self._numbers[owners[0]["uid"]] += 1
        return self._choose(pod, number)

    async def _play(self, pod: Manifest, script: Script) -> None:
        if script.pull_error:
            wait(pod, script.pull_error, {"reason": "ErrImagePull", "message": "not found"}, _now())
            await self._save(pod)
            return
        begin(pod, _now())
        await self._save(pod)
        await asyncio.sleep(script.seconds)
        if script.evicted:
            evict(pod, script, _now())
        end(pod, {c["name"]: script.code(c["name"]) for c in pod["spec"]["containers"]}, script, _now())
        await self._save(pod)

    async def _stop(self, pod: Manifest) -> None:
        if (task := self._playing.get(pod["metadata"]["uid"])) is not None:
            task.cancel()
        end(pod, {c["name"]: KILLED for c in pod["spec"]["containers"]}, Script(), _now())
        await self._save(pod)
        await self._send("DELETE", _path(pod), {"gracePeriodSeconds": 0})

    async def _save(self, pod: Manifest) -> None:
        await self._send("PATCH", f"{_path(pod)}/status", {"status": pod["status"]}, _STRATEGIC)

    async def _send(self, method: str, path: str, body: Manifest | None = None, kind: str = "application/json") -> None:
        """A pod or node that is gone, or there already, is as good."""
        headers = {"Content-Type": kind}
        query = {"fieldManager": "kubelet"} if method in ("POST", "PATCH") else {}
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, path, params=query, data=data, headers=headers) as answer:
            if answer.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                answer.raise_for_status()


def _path(pod: Manifest) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
