"""Every way in which a Job ends, and whose fault it is."""

import asyncio
from typing import Any

import pytest

from evolvent_engineer.kubernetes.backend import KubernetesBackend
from evolvent_schemas.values import FailureReason
from tests.kubernetes.conftest import Begin
from tests.kubernetes.fake import Cluster, Script
from tests.kubernetes.fake.resources import JOBS, PRIORITY_CLASSES
from tests.kubernetes.orders import NAMESPACE, order
from tests.kubernetes.waiting import FOREVER, jobs, next_end, no_end, pods, running, until


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(exits={"candidate": 3}), "crashed"),
        (Script(exits={"candidate": 3, "evaluator": 1}), "crashed"),
        (Script(exits={"evaluator": 1}), "evaluator_crashed"),
        (Script(oom="candidate"), "memory_limit"),
        (Script(oom="candidate", exits={"evaluator": 1}), "memory_limit"),
        (Script(oom="evaluator"), "evaluator_crashed"),
        (Script(evicted="Pod ephemeral local storage usage exceeds the total limit", pressure=False), "disk_limit"),
        (
            Script(evicted='Usage of EmptyDir volume "candidate-tmp" exceeds the limit "320Mi". ', pressure=False),
            "disk_limit",
        ),
        (
            Script(evicted="Container evaluator exceeded its local ephemeral storage limit", pressure=False),
            "evaluator_crashed",
        ),
        (FOREVER, "wall_limit"),
    ],
)
async def test_an_end_is_named_by_who_caused_it(
    script: Script, reason: FailureReason, begin: Begin, cluster: Cluster
) -> None:
    backend = await begin()
    cluster.script("*", script)
    await backend.launch(order())
    end = await next_end(backend)
    assert reason == end.reason, end


async def test_the_exit_code_is_measured(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", Script(exits={"candidate": 42}))
    await backend.launch(order())
    assert 42 == (await next_end(backend)).measured["exit_code"]


async def test_a_deadline_spent_waiting_for_a_node_is_nobodys_fault(begin: Begin) -> None:
    backend = await begin()
    await backend.launch(order(settings={"gpus": 64}))
    end = await next_end(backend)
    assert "infrastructure" == end.reason
    assert "ran 0 s" in end.message


EVICTED = Script(seconds=1, evicted="The node was low on resource: memory")


@pytest.mark.parametrize("hand", ["evict", "preempt", "pressure"])
async def test_a_disruption_is_made_good_by_a_new_pod_where_that_is_wanted(
    hand: str, begin: Begin, cluster: Cluster
) -> None:
    backend = await begin(disruptions=2)
    cluster.script("*", EVICTED if hand == "pressure" else FOREVER, Script(seconds=5))
    await backend.launch(order())
    if hand != "pressure":
        await until(lambda: running(cluster))
        getattr(cluster, hand)(NAMESPACE, running(cluster)[0]["metadata"]["name"])
    end = await next_end(backend)
    assert (None, 1.0) == (end.reason, end.measured.get("disruptions"))


@pytest.mark.parametrize("hand", ["evict", "preempt", "pressure"])
async def test_a_disruption_is_the_infrastructures(hand: str, begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", EVICTED if hand == "pressure" else FOREVER)
    await backend.launch(order())
    if hand != "pressure":
        await until(lambda: running(cluster))
        getattr(cluster, hand)(NAMESPACE, running(cluster)[0]["metadata"]["name"])
    assert "infrastructure" == (await next_end(backend)).reason
    await until(lambda: not jobs(cluster))


async def test_a_more_important_pod_preempts_an_experiment(begin: Begin, cluster: Cluster) -> None:
    """The scheduler itself, not the test's hand, throws the pod out."""
    metadata = {"name": "urgent", "uid": "urgent"}
    cluster.store.create(
        PRIORITY_CLASSES,
        {"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": metadata, "value": 1000},
        "admin",
    )
    cluster.script("r1-*", FOREVER)
    humble, urgent = await begin(), await begin(priority_class="urgent")
    await humble.launch(order(1, settings={"gpus": 8}))
    await humble.launch(order(2, settings={"gpus": 8}))
    await until(lambda: len(running(cluster)) == 2)
    await urgent.launch(order(1, run="r2", settings={"gpus": 8}))
    end = await next_end(humble)
    assert ("infrastructure", "r1") == (end.reason, end.identity.run)


async def test_a_lost_node_is_the_infrastructures(begin: Begin, cluster: Cluster) -> None:
    backend = await begin(start_seconds=10_000)
    cluster.script("*", FOREVER)
    await backend.launch(order())
    await until(lambda: running(cluster))
    cluster.lose_node(running(cluster)[0]["spec"]["nodeName"])
    cluster.clock.advance(341)
    assert "infrastructure" == (await next_end(backend)).reason


async def test_a_pod_no_node_takes_ends_the_experiment_in_time(begin: Begin, cluster: Cluster) -> None:
    backend = await begin(pending_seconds=0.2, start_seconds=10_000)
    await backend.launch(order(settings={"gpus": 64}))
    end = await next_end(backend)
    assert "infrastructure" == end.reason
    assert "Insufficient nvidia.com/gpu" in end.message
    await until(lambda: not jobs(cluster) and not pods(cluster))


async def both_nodes_taken(begin: Begin, cluster: Cluster, **more: Any) -> KubernetesBackend:
    """Have a third Job wait 0.2 s for a node."""
    backend = await begin(start_seconds=10_000, **more)
    cluster.script("r1-[12]-*", Script(seconds=4))
    for number in (1, 2):
        await backend.launch(order(number, settings={"gpus": 8}))
    await until(lambda: len(running(cluster)) == 2)
    await backend.launch(order(3, settings={"gpus": 8}))
    return backend


async def test_a_pod_that_found_its_node_is_left_alone(begin: Begin, cluster: Cluster) -> None:
    """However long it runs: the time in which it had to be found is over by then."""
    cluster.script("r1-3-*", Script(seconds=15))
    backend = await both_nodes_taken(begin, cluster, pending_seconds=0.5)
    assert [None, None, None] == [(await next_end(backend)).reason for _ in range(3)]


async def test_a_pod_that_found_its_node_late_has_all_the_time_for_its_image(begin: Begin, cluster: Cluster) -> None:
    cluster.script("r1-3-*", Script(pull_error="candidate"))
    backend = await both_nodes_taken(begin, cluster, pending_seconds=0.5, image_seconds=0.8)
    *_, end = [await next_end(backend) for _ in range(3)]
    assert ("3.0", "infrastructure") == (end.identity.candidate, end.reason)
    assert "no start within 0.8 s: candidate: ErrImagePull" in end.message


async def test_an_image_that_cannot_be_pulled_ends_the_experiment(begin: Begin, cluster: Cluster) -> None:
    backend = await begin(image_seconds=0.3, start_seconds=10_000)
    cluster.script("*", Script(pull_error="candidate"))
    await backend.launch(order())
    end = await next_end(backend)
    assert "infrastructure" == end.reason
    assert "ImagePull" in end.message
    await until(lambda: not jobs(cluster))


async def test_a_job_deleted_by_hand_is_the_infrastructures(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    await backend.launch(order())
    await until(lambda: running(cluster))
    cluster.delete_job(jobs(cluster)[0], "Background")
    end = await next_end(backend)
    assert "infrastructure" == end.reason
    assert "deleted" in end.message


async def test_the_end_of_a_finished_job_is_not_reported_again_when_its_time_to_live_is_over(
    begin: Begin, cluster: Cluster
) -> None:
    backend = await begin(ttl_seconds=1)
    await backend.launch(order())
    assert None is (await next_end(backend)).reason
    await until(lambda: not jobs(cluster))
    await no_end(backend)


async def test_a_suspended_job_waits_for_its_queue(begin: Begin, cluster: Cluster) -> None:
    backend = await begin(queue="experiments")
    await backend.launch(order())
    await asyncio.sleep(0.2)
    job = cluster.store.get(JOBS, NAMESPACE, order().identity.name)
    assert ("experiments", []) == (job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], pods(cluster))
    job["spec"]["suspend"] = False
    cluster.store.update(JOBS, job, "kueue")
    assert None is (await next_end(backend)).reason


async def test_an_experiment_of_several_pods_ends_when_all_have_ended(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    await backend.launch(order(settings={"pods": 3}))
    assert None is (await next_end(backend)).reason
    assert "0-2" == jobs(cluster)[0]["status"]["completedIndexes"]
