"""The fake API server answers as a real one did; a real one (KUBECONFIG) can be asked in its place."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.kubernetes.conformance import ENDS, NAMESPACE, Exchange, Replay, events_by_object, job, normal, recorded
from tests.kubernetes.fake import ADMIN_TOKEN, LIMITED_TOKEN, ApiServer, Cluster, Node

RATE = 5.0
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
EXCHANGES = recorded()
Answers = dict[str, Exchange]


async def _send(replay: Replay, method: str, path: str, body: Any = None) -> Exchange:
    return await replay.ask("", {"request": {"method": method, "path": path, "body": body}, "response": {}})


async def _until(replay: Replay, path: str, ready: Callable[[Exchange], bool]) -> None:
    async with asyncio.timeout(30):
        while not ready(await _send(replay, "GET", path)):  # noqa: ASYNC110 - the recorder could only ask, too
            await asyncio.sleep(0.02)


def _has(kind: str) -> Callable[[Exchange], bool]:
    return lambda answer: any(
        c["type"] == kind and c["status"] == "True" for c in answer["body"].get("status", {}).get("conditions", [])
    )


async def _finished(replay: Replay) -> None:
    await _until(replay, f"{JOBS}/a", _has("Complete"))
    all_done = lambda answer: all(map(_has("Complete"), ({"body": item} for item in answer["body"]["items"])))  # noqa: E731
    await _until(replay, JOBS, all_done)


async def _suspended(replay: Replay) -> None:
    await _until(replay, f"{JOBS}/ssa", _has("Suspended"))


async def _ended(replay: Replay) -> None:
    for item in ENDS:
        answer = await _send(replay, "POST", JOBS, item)
        assert answer["status"] == 201, answer
    for name in ("fail", "oom", "ddl"):
        await _until(replay, f"{JOBS}/{name}", _has("Failed"))
    await _until(replay, f"{JOBS}/idx", _has("Complete"))
    await _until(replay, f"{JOBS}/ttl", lambda answer: answer["status"] == 404)
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=job-name%3Dbig"
    await _until(replay, pods, lambda answer: "conditions" in answer["body"]["items"][0]["status"])


async def _collected(replay: Replay) -> None:
    await _until(replay, f"{JOBS}/idx", lambda answer: answer["status"] == 404)


BEFORE: dict[str, Callable[[Replay], Awaitable[None]]] = {
    "job get finished": _finished,
    "suspended job status": _suspended,
    "status fail": _ended,
    "get deleting (foreground finalizer)": _collected,
}
"""What the recorder waited for."""


async def _create_run_delete(replay: Replay) -> None:
    """What happened while the first watch was open."""
    await asyncio.sleep(0.05)
    await _send(replay, "POST", JOBS, job("w1"))
    await _until(replay, f"{JOBS}/w1", _has("Complete"))
    await _send(replay, "DELETE", f"{JOBS}/w1?propagationPolicy=Background")


async def _replay_all(replay: Replay, names: list[str], compact: Callable[[], None]) -> Answers:
    answers: Answers = {}
    for name in names:
        if name in BEFORE:
            await BEFORE[name](replay)
        if name.startswith("cluster-wide"):
            compact()
        if name.startswith("watch from list"):
            answers[name], _ = await asyncio.gather(replay.ask(name, EXCHANGES[name]), _create_run_delete(replay))
        else:
            answers[name] = await replay.ask(name, EXCHANGES[name])
    return answers


async def _against_the_fake() -> Answers:
    cluster = Cluster(nodes=(Node("sim-h100-0", gpus=8),))
    async with ApiServer(cluster, rate=RATE) as server, aiohttp.ClientSession() as session:
        replay = Replay(session, server.url, {"admin": ADMIN_TOKEN, "limited": LIMITED_TOKEN}, RATE)
        return await _replay_all(replay, list(EXCHANGES), cluster.store.compact)


NEEDS_KUBELET = (
    "job get finished", "pods by label", "list selector", "fieldSelector metadata", "list limit", "list continue",
    "Table get", "PUT", "immutable", "merge patch", "strategic patch", "watch", "status ", "pending pod", "pod log",
    "quota exceeded", "delete", "get deleting", "generateName", "openapi", "cluster-wide",
)  # fmt: skip
"""A real cluster has real nodes: what depends on pods that end in half a second is replayed on the fake only."""


async def _against(url: str, tokens: dict[str, str]) -> Answers:
    names = [name for name in EXCHANGES if not name.startswith(NEEDS_KUBELET)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        replay = Replay(session, url, tokens, 1.0, namespace=f"probe-{os.getpid()}")
        try:
            return await _replay_all(replay, names, lambda: None)
        finally:
            for suffix in ("", "-r"):
                await _send(replay, "DELETE", f"/api/v1/namespaces/{NAMESPACE}{suffix}")


def _real_cluster(path: str) -> tuple[str, dict[str, str]]:
    """Server and tokens of the current context; the limited user's token is the user named `limited`."""
    config = yaml.safe_load(Path(path).read_text())
    by_name = {user["name"]: user["user"].get("token", "") for user in config["users"]}
    context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
    server = next(c["cluster"]["server"] for c in config["clusters"] if c["name"] == context["cluster"])
    return server, {"admin": by_name[context["user"]], "limited": by_name.get("limited", "")}


@pytest.fixture(scope="session")
def answers() -> Iterator[Answers]:
    path = os.environ.get("KUBECONFIG")
    found = asyncio.run(_against(*_real_cluster(path)) if path else _against_the_fake())
    print(f"replayed {len(found)} of {len(EXCHANGES)} exchanges against {path or 'the fake'}")
    yield found


def _headers(found: dict[str, str]) -> dict[str, str]:
    lower = {key.lower(): value for key, value in found.items()}
    return {key: lower[key] for key in ("content-type", "warning") if key in lower}


def _served(expected: Exchange, actual: Exchange) -> Any:
    """The OpenAPI index, for the groups that both serve; its hashes name a build."""
    assert actual["paths"].keys() <= expected["paths"].keys()
    return {path: expected["paths"][path]["serverRelativeURL"].split("?")[0] for path in actual["paths"]}


def _asked() -> list[str]:
    if "KUBECONFIG" in os.environ:
        return [name for name in EXCHANGES if not name.startswith(NEEDS_KUBELET)]
    return list(EXCHANGES)


def test_every_recorded_exchange_is_known() -> None:
    assert 73 == len(EXCHANGES)


@pytest.mark.parametrize("name", _asked())
def test_the_answer_is_that_of_the_recorded_server(name: str, answers: Answers) -> None:
    expected, actual = EXCHANGES[name]["response"], answers[name]
    assert actual["status"] == expected["status"], actual
    assert _headers(actual["headers"]) == _headers(expected["headers"])
    if name == "openapi v3 index":
        shown = {path: found["serverRelativeURL"].split("?")[0] for path, found in actual["body"]["paths"].items()}
        assert shown == _served(expected["body"], actual["body"])
    elif "events" in expected:
        assert events_by_object(actual["events"], NAMESPACE) == events_by_object(expected["events"], NAMESPACE)
    else:
        assert normal(actual["body"]) == normal(expected["body"])
