"""Replaying what a real API server answered, against another one."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from yarl import URL

RECORDED = Path(__file__).parent / "recorded"
NAMESPACE = "probe-1795221395"
Exchange = dict[str, Any]
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_POD = re.compile(r"\b(a|oom|big|cand)-[a-z0-9]{5}\b")
_DUMP = re.compile(r"Invalid value: \{.*\}: field is immutable")
_STAND_INS = ("OpenAPI-Generator", "kubelet")
"""The recorder ran no kubelet: a client of its own wrote the pods' status under its library's name."""


def recorded() -> dict[str, Exchange]:
    """All recorded exchanges, in order."""
    first: dict[str, Exchange] = json.loads((RECORDED / "real_v1.36.2.json").read_text())
    return first | {f"cluster-wide {name}": found for name, found in _expired().items()}


def _expired() -> dict[str, Exchange]:
    found: dict[str, Exchange] = json.loads((RECORDED / "real_410.json").read_text())
    return found


def job(name: str, **more: Any) -> dict[str, Any]:
    """A Job as the recorder built them; keywords go into the spec, `sim` into the pod's annotations."""
    annotations = {f"sim/{key}": str(value) for key, value in more.pop("sim", {"seconds": 0.5}).items()}
    container: Exchange = {"name": "train", "image": "r.local/t:1", "command": ["python", "-m", "t"]}
    container |= {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    pod = {"metadata": {"annotations": annotations}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": name, "labels": {"app": "ml", "candidate": name}}
    spec = {"backoffLimit": 0, "template": pod} | more
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _big() -> dict[str, Any]:
    found = job("big")
    limits = {"limits": {"nvidia.com/gpu": "64"}}
    container = {"name": "t", "image": "r/t", "resources": limits}
    found["spec"]["template"] = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return found


_OOM = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [137]}}]}
ENDS = (
    job("fail", sim={"seconds": 0.3, "exit": 1}),
    job("oom", sim={"seconds": 0.3, "exit": 137}, backoffLimit=3, podFailurePolicy=_OOM),
    job("ddl", sim={"seconds": 30}, activeDeadlineSeconds=2),
    job("ttl", sim={"seconds": 0.3}, ttlSecondsAfterFinished=1),
    job("idx", completions=3, parallelism=3, completionMode="Indexed"),
    _big(),
)
"""The Jobs whose ends were recorded; their creation was not."""


@dataclass
class Replay:
    """One client that asks again what was asked, with versions, ids and names of this server."""

    session: aiohttp.ClientSession
    url: str
    tokens: Mapping[str, str]
    """Token by user: `admin`, `limited`."""
    rate: float
    """How much faster than real time the server's clock runs."""
    namespace: str = NAMESPACE
    learned: dict[str, str] = field(default_factory=dict)

    async def ask(self, name: str, exchange: Exchange) -> Exchange:
        """Send one recorded request and learn this server's ids from the answer."""
        request = exchange["request"]
        headers = self._headers(name, request)
        body = request.get("body")
        data = self._ours(body) if isinstance(body, str) else json.dumps(json.loads(self._ours(json.dumps(body))))
        url = self.url + self._path(request["path"])
        async with self.session.request(
            request["method"], URL(url, encoded=True), headers=headers, data=None if body is None else data
        ) as response:
            answer: Exchange = {"status": response.status, "headers": dict(response.headers)}
            if "stream_s" in request and "events" in exchange["response"]:
                answer["events"] = [event async for event in self._events(response, request)]
            else:
                answer["body"] = json.loads(await response.text())
        self._learn(exchange["response"], answer)
        return answer

    def _headers(self, name: str, request: Exchange) -> dict[str, str]:
        token = {"bad token 401": "nonsense", "rbac 403": self.tokens["limited"]}.get(name, self.tokens["admin"])
        headers = {"User-Agent": "probe/1"} | (
            {} if name == "no token 403 anonymous" else {"Authorization": f"Bearer {token}"}
        )
        if "body" in request:
            headers["Content-Type"] = request.get("ctype", "application/json")
        return headers

    def _ours(self, text: str) -> str:
        """In one pass: a version of ours may be one of theirs, and means another then."""
        if self.learned:
            known = re.compile("|".join(map(re.escape, sorted(self.learned, key=len, reverse=True))))
            text = known.sub(lambda found: self.learned[found.group()], text)
        return text.replace(NAMESPACE, self.namespace)

    def _path(self, path: str) -> str:
        split = urlsplit(self._ours(path))
        pairs = [(k, self.learned.get(f'"resourceVersion": "{v}"', v)) for k, v in parse_qsl(split.query)]
        pairs = [(k, json.loads(f"{{{v}}}")["resourceVersion"] if v.startswith('"') else v) for k, v in pairs]
        return f"{split.path}?{urlencode(pairs)}" if pairs else split.path

    async def _events(self, response: aiohttp.ClientResponse, request: Exchange) -> AsyncIterator[Exchange]:
        started = time.monotonic()
        patience = request["stream_s"] / self.rate
        try:
            async with asyncio.timeout(patience):
                async for line in response.content:
                    yield json.loads(line)
                yield {"_eof_after": round((time.monotonic() - started) * self.rate)}
        except TimeoutError:
            return

    def _learn(self, theirs: Any, ours: Any) -> None:
        """Pair up versions, ids, generated names and continue tokens, wherever both answers have them."""
        if isinstance(theirs, dict) and isinstance(ours, dict):
            for key in theirs.keys() & ours.keys():
                self._pair(key, theirs[key], ours[key])
                self._learn(theirs[key], ours[key])
        elif isinstance(theirs, list) and isinstance(ours, list):
            for left, right in zip(theirs, ours, strict=False):
                self._learn(left, right)

    def _pair(self, key: str, theirs: Any, ours: Any) -> None:
        if key == "resourceVersion":
            self.learned[f'"resourceVersion": "{theirs}"'] = f'"resourceVersion": "{ours}"'
        elif key in ("uid", "continue") or (key == "name" and theirs != ours and _POD.fullmatch(str(theirs))):
            self.learned[theirs] = ours


def normal(value: Any, namespace: str = NAMESPACE) -> Any:
    """What must be equal: ids, times, versions and generated names replaced by their kind."""
    if isinstance(value, dict):
        return _normal_map(value, namespace)
    if isinstance(value, list):
        return [normal(item, namespace) for item in value]
    return _normal_text(value.replace(namespace, NAMESPACE)) if isinstance(value, str) else value


def _normal_map(value: dict[str, Any], namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key == "managedFields":
            found[key] = _owners(item)
        elif key == "resourceVersion":
            found[key] = "<version>"
        elif key == "continue":
            found[key] = "<continue>"
        elif key == "conditions" and isinstance(item, list):
            found[key] = _conditions(item, namespace)
        else:
            found[_normal_text(key)] = normal(item, namespace)
    return found


def _conditions(entries: list[dict[str, Any]], namespace: str) -> list[Any]:
    """A pod's are a map by type, a Job's a list; the recorder's stand-in left ContainersReady at True for ever."""
    shown = [normal(entry, namespace) for entry in entries if entry["type"] != "ContainersReady"]
    is_pod = any(entry["type"] == "PodScheduled" for entry in entries)
    return sorted(shown, key=lambda entry: entry["type"]) if is_pod else shown


def _owners(entries: list[dict[str, Any]]) -> list[Any]:
    """Entries in a fixed order: the server sorts by time, in whole seconds."""
    kept = [entry for entry in entries if entry["manager"] not in _STAND_INS]
    return sorted((normal(entry) for entry in kept), key=lambda entry: json.dumps(entry, sort_keys=True))


def _normal_text(text: str) -> str:
    text = _UID.sub("<uid>", text)
    text = _TIME.sub("<time>", text)
    text = _POD.sub(r"\1-<suffix>", text)
    text = _DUMP.sub("Invalid value: <template>: field is immutable", text)  # the server prints its Go struct there
    text = re.sub(r"current: \d+", "current: <version>", text)
    return re.sub(r"too old resource version: 1 \(\d+\)", "too old resource version: 1 (<version>)", text)


def events_by_object(events: list[Exchange], namespace: str) -> dict[str, list[Any]]:
    """Events of each object in order; objects change independently of each other."""
    found: dict[str, list[Any]] = {}
    for event in events:
        name = _POD.sub(r"\1-<suffix>", event.get("object", {}).get("metadata", {}).get("name", ""))
        found.setdefault(name, []).append(normal(event, namespace))
    return found
