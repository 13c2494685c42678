"""One watch for all Jobs, over broken streams and over lives of the engineer."""

import asyncio

import pytest

from evolvent_engineer.kubernetes import client
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.watch import _FAILURES
from tests.kubernetes.conftest import Begin
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Fault, Script
from tests.kubernetes.fake.resources import JOBS
from tests.kubernetes.orders import NAMESPACE, order
from tests.kubernetes.orders import backend as build
from tests.kubernetes.waiting import FOREVER, jobs, next_end, no_end, pods, running, until


async def test_a_dropped_watch_is_resumed_without_a_new_list(begin: Begin, server: ApiServer, cluster: Cluster) -> None:
    backend = await begin()
    lists = server.requests["list", "jobs"]
    cluster.script("*", Script(seconds=6))
    await backend.launch(order())
    for _ in range(3):
        before = server.requests["watch", "jobs"]
        await until(lambda: server.requests["watch", "jobs"])
        server.drop_watches()
        await until(lambda before=before: server.requests["watch", "jobs"] > before)  # type: ignore[misc]
    assert None is (await next_end(backend)).reason
    assert lists == server.requests["list", "jobs"]
    assert server.requests["watch", "jobs"] >= 4


async def test_an_end_that_falls_into_a_compacted_gap_is_found_by_a_new_list(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    backend = await begin()
    lists = server.requests["list", "jobs"]
    await backend.launch(order())
    server.faults.arm(Fault("status", "GET", path="watch=true", times=4, code=500))
    server.drop_watches()
    cluster.clock.advance(5)
    cluster.store.compact()
    assert None is (await next_end(backend)).reason
    assert server.requests["list", "jobs"] > lists
    await no_end(backend)


async def test_a_deletion_that_falls_into_a_compacted_gap_is_found_by_a_new_list(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    await backend.launch(order())
    server.faults.arm(Fault("status", "GET", path="watch=true", times=4, code=500))
    server.drop_watches()
    cluster.store.remove(JOBS, NAMESPACE, order().identity.name)
    cluster.store.compact()
    assert "infrastructure" == (await next_end(backend)).reason


async def test_a_watch_that_is_refused_for_ever_is_begun_again_with_a_list(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    """A server restored from a backup never comes to the version that we saw: "Too large resource version"."""
    backend = await begin()
    lists = server.requests["list", "jobs"]
    await until(lambda: server.requests["watch", "jobs"])
    await backend.launch(order())
    refused = server.faults.arm(Fault("status", "GET", path="jobs.*watch=true", times=10_000, code=504))
    server.drop_watches()
    cluster.clock.advance(5)
    assert (order().identity, None) == ((end := await next_end(backend)).identity, end.reason)
    assert server.requests["list", "jobs"] > lists
    assert 10_000 - refused.times >= _FAILURES - 1  # the watch that was dropped is the first of them
    await no_end(backend)


async def test_failures_of_a_watch_that_saw_something_between_them_cost_no_list(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    backend = await begin()
    lists = server.requests["list", "jobs"]
    cluster.script("*", Script(seconds=0.1))
    for number in range(_FAILURES + 1):
        watches = server.requests["watch", "jobs"]
        server.drop_watches()
        await until(lambda watches=watches: server.requests["watch", "jobs"] > watches)  # type: ignore[misc]
        await backend.launch(order(number))
        await next_end(backend)
    assert lists == server.requests["list", "jobs"]


async def test_a_bookmark_carries_a_quiet_watch_over_a_compaction(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    await begin()
    await until(lambda: server.requests["watch", "jobs"])
    await asyncio.sleep(0.1)
    for _ in range(5):
        cluster.namespace(f"busy-{cluster.store.version}")
    cluster.clock.advance(61)
    await asyncio.sleep(0.1)
    cluster.store.compact()
    lists, watches = server.requests["list", "jobs"], server.requests["watch", "jobs"]
    server.drop_watches()
    await until(lambda: server.requests["watch", "jobs"] > watches)
    await asyncio.sleep(0.1)
    assert lists == server.requests["list", "jobs"]


# lives of the engineer


async def test_a_new_engineer_learns_every_end_of_the_old_one(begin: Begin, cluster: Cluster) -> None:
    cluster.script("r1-1-*", Script(seconds=0.1))
    cluster.script("r1-2-*", Script(seconds=15))
    old = await begin()
    await old.launch(order(1))
    await old.launch(order(2))
    await next_end(old)
    await old.close()
    new = await begin()
    ends = {(await next_end(new)).identity.candidate for _ in range(2)}
    assert {"1.0", "2.0"} == ends


async def ended_unseen(begin: Begin, cluster: Cluster, number: int) -> set[str]:
    """Have so many Jobs whose ends no engineer saw; returns their candidates."""
    cluster.script("*", Script(seconds=0.1))
    first = await begin()
    for each in range(number):
        await first.launch(order(each))
    await first.close()
    await until(lambda: all("completionTime" in job["status"] for job in jobs(cluster)))
    return {f"{each}.0" for each in range(number)}


@pytest.mark.parametrize("expires", [False, True])
async def test_a_list_of_several_pages_is_read_to_its_end_or_begun_again(
    expires: bool, begin: Begin, server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Job on a later page that nobody read would be taken for one that was deleted."""
    wanted = await ended_unseen(begin, cluster, 5)
    monkeypatch.setattr(client, "PAGE", 2)
    if expires:
        server.faults.arm(Fault("status", "GET", path="jobs.*continue=", code=410))
    lists = server.requests["list", "jobs"]
    later = build(server.url, ADMIN_TOKEN)
    later.expect(order(each).identity for each in range(5))
    await later.start()
    ends = [await next_end(later) for _ in range(5)]
    await no_end(later)
    await later.close()
    assert (wanted, {None}) == ({end.identity.candidate for end in ends}, {end.reason for end in ends})
    assert 3 + expires == server.requests["list", "jobs"] - lists


async def test_a_job_that_vanished_while_no_engineer_lived_is_the_infrastructures(
    server: ApiServer, begin: Begin
) -> None:
    found = build(server.url, ADMIN_TOKEN)
    found.expect([Identity("r1", "7.0", "explore", 0, 0)])
    await found.start()
    end = await next_end(found)
    await found.close()
    assert ("infrastructure", "7.0") == (end.reason, end.identity.candidate)


async def test_a_relaunched_experiment_that_has_ended_is_reported_again(begin: Begin) -> None:
    """The message is delivered again when its end could not be stored."""
    backend = await begin()
    await backend.launch(order())
    first = await next_end(backend)
    await backend.launch(order())
    assert first == await next_end(backend)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_name_that_is_free_again_may_be_launched_again_and_every_engineer_learns_its_end(
    seen: bool, begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    """Should whoever launched it die, the other is the one to record it; also if the deletion fell into a gap."""
    cluster.script("*", Script(seconds=0.1))
    one, other = await begin(), await begin()
    await one.launch(order())
    assert order().identity == (await next_end(other)).identity
    if seen:
        await one.settle((await next_end(one)).identity)
    else:
        lists = server.requests["list", "jobs"]
        gap = server.faults.arm(Fault("status", "GET", path="jobs.*watch=true", times=10_000, code=500))
        server.drop_watches()
        await one.settle((await next_end(one)).identity)
        cluster.store.compact()
        gap.times = 0
        await until(lambda: server.requests["list", "jobs"] >= lists + 2)
    await one.launch(order())
    assert order().identity == (await next_end(other)).identity
    await no_end(other)


async def test_a_settled_experiment_leaves_nothing_and_is_not_reported_again(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    await backend.launch(order())
    await backend.settle((await next_end(backend)).identity)
    await until(lambda: not jobs(cluster) and not pods(cluster))
    await no_end(await begin())


async def test_halting_a_run_removes_its_jobs_and_pods_and_no_others(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("r1-*", FOREVER)
    cluster.script("r2-*", Script(seconds=8))
    for number in range(3):
        await backend.launch(order(number, run="r1"))
    await backend.launch(order(9, run="r2"))
    await until(lambda: len(running(cluster)) == 4)
    await backend.halt("r1")
    await until(lambda: 1 == len(jobs(cluster)) == len(pods(cluster)))
    assert ("r2", None) == ((end := await next_end(backend)).identity.run, end.reason)
    await no_end(backend)


@pytest.mark.parametrize("hand", ["settle", "halt", "halt one round"])
async def test_whoever_removes_a_job_asks_for_its_pods_to_go_too_and_at_once(
    hand: str, begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    """An API server that is not told to keeps the pods, which would train on for nobody."""
    backend, identity = await begin(), order().identity
    cluster.script("*", FOREVER)
    await backend.launch(order())
    await until(lambda: running(cluster))
    match hand:
        case "settle":
            await backend.settle(identity)
        case "halt":
            await backend.halt(identity.run)
        case _:
            await backend.halt(identity.run, identity.round)
    await until(lambda: not jobs(cluster) and not pods(cluster))
    wanted = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "gracePeriodSeconds": 0}
    assert server.deletions
    assert all(wanted == options for _, options in server.deletions)
