"""The fake API server answers as a real one did; a real one can be asked in its place.

KUBECONFIG names it, and namespaces are made in it; its users `admin` (the current one) and `limited` (may read Jobs)
have tokens. STAND_IN_KUBELET: it is a control plane without nodes, and what its pods do is played.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.kubernetes.access import Access
from tests.kubernetes.conformance import ENDS, NAMESPACE, Exchange, Replay, events_by_object, job, normal, recorded
from tests.kubernetes.fake import ADMIN_TOKEN, LIMITED_TOKEN, ApiServer, Cluster, Node
from tests.kubernetes.standin import StandIn

RATE = 5.0
PATIENCE_SECONDS = 15.0
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
EXCHANGES = recorded()
OURS = f"probe-{os.getpid()}" if "KUBECONFIG" in os.environ else NAMESPACE
Answers = dict[str, Exchange]


async def _send(replay: Replay, method: str, path: str, body: Any = None) -> Exchange:
    return await replay.ask("", {"request": {"method": method, "path": path, "body": body}, "response": {}})


async def _until(replay: Replay, path: str, ready: Callable[[Exchange], bool]) -> None:
    """Give up in the end: what a server does not do then shows in the exchanges that need it, and in no others."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not ready(await _send(replay, "GET", path)):  # noqa: ASYNC110 - the recorder could only ask, too
                await asyncio.sleep(0.02)


def _has(kind: str) -> Callable[[Exchange], bool]:
    def ready(answer: Exchange) -> bool:
        status = answer["body"].get("status", {})
        found = status.get("conditions", []) if isinstance(status, dict) else []
        return any(c["type"] == kind and c["status"] == "True" for c in found)

    return ready


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
    await _until(replay, pods, lambda answer: any("conditions" in pod["status"] for pod in answer["body"]["items"]))


async def _collected(replay: Replay) -> None:
    await _until(replay, f"{JOBS}/idx", lambda answer: answer["status"] == 404)


async def _quota_counted(replay: Replay) -> None:
    """A quota holds once its controller has counted what is there."""
    path = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/q"
    await _until(replay, path, lambda answer: "used" in answer["body"]["status"])


BEFORE: dict[str, Callable[[Replay], Awaitable[None]]] = {
    "job get finished": _finished,
    "suspended job status": _suspended,
    "status fail": _ended,
    "quota exceeded 403": _quota_counted,
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


PODS_END = (
    "job get finished", "pods by label", "list selector", "fieldSelector metadata", "list limit", "list continue",
    "Table get", "PUT", "immutable", "merge patch", "strategic patch", "watch", "status ", "pending pod", "pod log",
    "quota exceeded", "delete", "get deleting", "generateName",
)  # fmt: skip
"""Asked where pods end as their annotations say: of the fake, and of a control plane whose kubelet we stand in for."""
THIS_SERVER = ("openapi", "cluster-wide", "watch rv=1")
"""Depends on what else a server serves, and on how far back its history reaches."""


async def _against(access: Access) -> Answers:
    async with AsyncExitStack() as stack:
        if "STAND_IN_KUBELET" in os.environ:
            admin = await stack.enter_async_context(access.session("admin"))
            await stack.enter_async_context(StandIn(admin, Node("sim-h100-0", gpus=8)).running())
        session = await stack.enter_async_context(access.session())
        replay = Replay(session, access.url, access.tokens, 1.0, namespace=OURS)
        stack.push_async_callback(_clean, replay)
        print((await _send(replay, "GET", "/version"))["body"]["gitVersion"])
        return await _replay_all(replay, _asked(), lambda: None)


async def _clean(replay: Replay) -> None:
    for suffix in ("", "-r"):
        await _send(replay, "DELETE", f"/api/v1/namespaces/{NAMESPACE}{suffix}")


@pytest.fixture(scope="session")
def answers() -> Iterator[Answers]:
    path = os.environ.get("KUBECONFIG")
    found = asyncio.run(_against(Access.of(Path(path))) if path else _against_the_fake())
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
    if "KUBECONFIG" not in os.environ:
        return list(EXCHANGES)
    passed_over = THIS_SERVER if "STAND_IN_KUBELET" in os.environ else THIS_SERVER + PODS_END
    return [name for name in EXCHANGES if not name.startswith(passed_over)]


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
        assert events_by_object(actual["events"], OURS) == events_by_object(expected["events"], NAMESPACE)
    else:
        assert normal(actual["body"], OURS) == normal(expected["body"])
