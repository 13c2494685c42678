"""What the recordings do not show of an API server, and what breaks it on demand."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import yaml

from tests.kubernetes.conformance import job
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Fault, Script, patches, selectors
from tests.kubernetes.fake.clock import Clock
from tests.kubernetes.fake.resources import JOBS, PODS
from tests.kubernetes.fake.schema import of
from tests.kubernetes.fake.status import ApiError
from tests.kubernetes.waiting import FOREVER, until

PATH = "/apis/batch/v1/namespaces/default/jobs"


@pytest.fixture
async def session(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as found:
        yield found


async def post(session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(PATH, json=body) as answer:
        found: dict[str, Any] = await answer.json()
        assert 201 == answer.status, found
        return found


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.store.all(PODS, "default")


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=ml", True),
        ("app==ml,stage!=x", True),
        ("app in (ml, other)", True),
        ("app notin (ml)", False),
        ("app", True),
        ("!app", False),
        ("other", False),
        ("other!=1", True),
        ("app=ml,seed=2", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert matches is selectors.labels(selector)({"app": "ml", "seed": "1"})


def test_strategic_merge_joins_lists_by_their_key() -> None:
    current = {
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}}
    }
    patch = {
        "spec": {"template": {"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}]}}}
    }
    found = patches.strategic(current, patch, of(JOBS))
    assert [{"name": "b", "image": "2"}] == found["spec"]["template"]["spec"]["containers"]


def test_merge_patch_replaces_lists_and_removes_by_null() -> None:
    assert {"a": [2], "c": 1} == patches.merge({"a": [1, 3], "b": 1}, {"a": [2], "b": None, "c": 1})


def test_json_patch_does_what_its_operations_say() -> None:
    operations: list[dict[str, Any]] = [
        {"op": "test", "path": "/a/0", "value": 1},
        {"op": "add", "path": "/a/-", "value": 3},
        {"op": "replace", "path": "/b~1c", "value": 2},
        {"op": "copy", "from": "/a", "path": "/d"},
        {"op": "move", "from": "/d/0", "path": "/e"},
        {"op": "remove", "path": "/a/0"},
    ]
    assert {"a": [3], "b/c": 2, "d": [3], "e": 1} == patches.json_patch({"a": [1], "b/c": 1}, operations)


def test_a_json_patch_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ApiError):
        patches.json_patch({}, [{"op": "remove", "path": "/a"}])


def test_what_is_due_at_one_time_runs_in_the_order_it_was_asked_for() -> None:
    clock, seen = Clock(), []
    for number in range(5):
        clock.call_later(1, lambda number=number: seen.append(number))  # type: ignore[misc]
    clock.call_later(0.5, lambda: clock.call_later(0.1, lambda: seen.append("early")))
    clock.advance(1)
    assert ["early", 0, 1, 2, 3, 4] == seen


@pytest.mark.parametrize(("policy", "left"), [("Background", 0), ("Foreground", 0), ("Orphan", 1)])
async def test_deletion_policies(policy: str, left: int, session: aiohttp.ClientSession, cluster: Cluster) -> None:
    cluster.script("*", FOREVER)
    await post(session, job("a"))
    await until(lambda: pods(cluster) and pods(cluster)[0]["status"]["phase"] == "Running")
    await session.delete(f"{PATH}/a", params={"propagationPolicy": policy})
    await until(lambda: cluster.store.peek(JOBS, "default", "a") is None and len(pods(cluster)) == left)
    assert not any("ownerReferences" in pod["metadata"] for pod in pods(cluster))


async def test_an_object_that_leaves_a_selection_is_deleted_for_its_watcher(
    session: aiohttp.ClientSession, cluster: Cluster
) -> None:
    await post(session, job("a", suspend=True))
    await until(lambda: "conditions" in cluster.store.get(JOBS, "default", "a")["status"])
    query = {"watch": "1", "labelSelector": "app=ml", "resourceVersion": str(cluster.store.version)}
    async with session.get(PATH, params=query) as stream:
        headers = {"Content-Type": "application/merge-patch+json"}
        await session.patch(f"{PATH}/a", data=json.dumps({"metadata": {"labels": {"app": "x"}}}), headers=headers)
        await session.patch(f"{PATH}/a", data=json.dumps({"metadata": {"labels": {"app": "ml"}}}), headers=headers)
        seen = [json.loads(await stream.content.readline())["type"] for _ in range(2)]
    assert ["DELETED", "ADDED"] == seen


async def test_pages_of_one_list_show_one_moment(session: aiohttp.ClientSession) -> None:
    for name in "abc":
        await post(session, job(name, suspend=True))
    first = await (await session.get(PATH, params={"limit": 2})).json()
    await session.delete(f"{PATH}/c", params={"propagationPolicy": "Background"})
    await post(session, job("d", suspend=True))
    rest = await (await session.get(PATH, params={"limit": 2, "continue": first["metadata"]["continue"]})).json()
    assert ["a", "b", "c"] == [item["metadata"]["name"] for item in first["items"] + rest["items"]]


async def test_a_failed_pod_is_replaced_after_a_growing_pause(session: aiohttp.ClientSession, cluster: Cluster) -> None:
    cluster.script("*", Script(exits={"train": 1}, seconds=0.1))
    await post(session, job("a", backoffLimit=2))
    await until(lambda: len(pods(cluster)) == 3)
    made = [cluster.clock.since(pod["metadata"]["creationTimestamp"]) for pod in pods(cluster)]
    first, second, third = sorted(made, reverse=True)
    assert 10 <= first - second < 14
    assert 20 <= second - third < 26


async def test_gpus_are_given_out_once(session: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Two nodes of eight: sixteen of twenty pods run, and the others when those have ended."""
    cluster.script("*", Script(seconds=20))
    await asyncio.gather(*(post(session, job(f"j{number}")) for number in range(20)))
    await until(lambda: sum("nodeName" in pod["spec"] for pod in pods(cluster)) == 16)
    await until(lambda: all(pod["status"]["phase"] == "Succeeded" for pod in pods(cluster)))
    assert 20 == len(pods(cluster))


async def test_faults_strike_as_often_as_they_were_armed(session: aiohttp.ClientSession, server: ApiServer) -> None:
    server.faults.arm(Fault("status", "GET", times=2, code=503, retry_after=7))
    answers = [await session.get(PATH) for _ in range(3)]
    assert [503, 503, 200] == [answer.status for answer in answers]
    assert "7" == answers[0].headers["Retry-After"]


async def kubectl(server: ApiServer, *arguments: str, text: str = "") -> str:
    command = ["kubectl", "--server", server.url, *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    shown, errors = await process.communicate(text.encode())
    assert 0 == process.returncode, errors.decode()
    return shown.decode()


async def test_kubectl_talks_to_it(cluster: Cluster, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    async with ApiServer(cluster, rate=20, open_to_all=True) as server:
        await kubectl(server, "create", "--validate=false", "-f", "-", text=yaml.safe_dump(job("a")))
        await kubectl(server, "wait", "--for=condition=Complete", "job/a", "--timeout=20s")
        assert "1" == await kubectl(server, "get", "job", "a", "-o", "jsonpath={.status.succeeded}")
        await kubectl(server, "delete", "job", "a")
    assert [] == cluster.store.all(JOBS, "default")
