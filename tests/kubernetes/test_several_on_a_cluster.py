"""An experiment of several pods on a cluster: its policy, its end, and whose fault that is."""

from typing import Any

import pytest

from evolvent.errors import Permanent, Transient
from evolvent_engineer.kubernetes.ends import judge
from evolvent_schemas.values import FailureReason
from tests.kubernetes.conftest import Begin
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Fault, Script
from tests.kubernetes.fake.resources import NETWORK_POLICIES
from tests.kubernetes.orders import NAMESPACE, order
from tests.kubernetes.orders import backend as build
from tests.kubernetes.test_judging import at, disrupted, ended, failed, pod, running
from tests.kubernetes.waiting import FOREVER, jobs, next_end, no_end, pods, until
from tests.kubernetes.waiting import running as running_pods

Manifest = dict[str, Any]
IDENTITY = order().identity
THREE = {"pods": 3}


def policies(cluster: Cluster) -> list[Manifest]:
    return cluster.store.all(NETWORK_POLICIES, NAMESPACE)


# the network among the pods


async def test_one_policy_is_made_for_a_job_and_goes_with_it(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    for _ in range(3):
        await backend.launch(order(settings=THREE))
    (job,), (policy,) = jobs(cluster), policies(cluster)
    assert [job["metadata"]["uid"]] == [owner["uid"] for owner in policy["metadata"]["ownerReferences"]]
    selector = policy["spec"]["podSelector"]["matchLabels"]
    await until(lambda: len(running_pods(cluster)) == 3)
    assert all(selector.items() <= each["metadata"]["labels"].items() for each in pods(cluster))
    await backend.settle(IDENTITY)
    await until(lambda: not jobs(cluster) and not policies(cluster))


async def test_a_job_of_one_pod_has_no_policy(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    await backend.launch(order())
    assert None is (await next_end(backend)).reason
    assert [] == policies(cluster)


async def test_two_jobs_do_not_share_a_policy(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    await backend.launch(order(1, settings=THREE))
    await backend.launch(order(2, settings=THREE))
    selectors = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies(cluster)]
    assert 2 == len(selectors)
    assert selectors[0] != selectors[1]


async def test_an_engineer_that_finds_the_job_of_one_that_died_makes_its_policy(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    """The first was gone between the two requests, so that its message is delivered again."""
    cluster.script("*", FOREVER)
    first = await begin()
    server.faults.arm(Fault("status", "POST", path="networkpolicies", times=6, code=500))
    with pytest.raises(Transient, match="failed 6 times"):
        await first.launch(order(settings=THREE))
    await first.close()
    assert (1, 0) == (len(jobs(cluster)), len(policies(cluster)))
    second = build(server.url, ADMIN_TOKEN)
    await second.start()
    await second.launch(order(settings=THREE))
    await second.close()
    assert (1, 1) == (len(jobs(cluster)), len(policies(cluster)))


async def test_a_job_whose_policy_is_refused_is_not_left_to_hold_its_gpus(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    server.faults.arm(Fault("status", "POST", path="networkpolicies", code=403))
    with pytest.raises(Permanent):
        await backend.launch(order(settings=THREE))
    await until(lambda: not jobs(cluster) and not pods(cluster))
    await no_end(backend)


async def test_a_policy_of_an_older_job_of_the_name_is_not_taken_for_this_ones(begin: Begin, cluster: Cluster) -> None:
    backend = await begin()
    cluster.script("*", FOREVER)
    await backend.launch(order(settings=THREE))
    older = policies(cluster)[0]["metadata"]["name"]
    cluster.delete_job(jobs(cluster)[0], "Background")
    assert "infrastructure" == (await next_end(backend)).reason
    await backend.launch(order(settings=THREE))
    await until(lambda: [older] != [each["metadata"]["name"] for each in policies(cluster)] and policies(cluster))


# ends


@pytest.mark.parametrize("hand", ["evict", "preempt"])
async def test_a_disruption_of_one_of_several_is_the_infrastructures(hand: str, begin: Begin, cluster: Cluster) -> None:
    """No new pod can take the place of one that has trained; the others are stopped, and nobody is blamed for that."""
    backend = await begin(disruptions=2)
    cluster.script("*", FOREVER)
    await backend.launch(order(settings=THREE))
    await until(lambda: len(running_pods(cluster)) == 3)
    lost = running_pods(cluster)[1]["metadata"]["name"]
    getattr(cluster, hand)(NAMESPACE, lost)
    end = await next_end(backend)
    assert "infrastructure" == end.reason
    assert lost in end.message
    assert "FailJob rule at index 0" in end.message
    await no_end(backend)


async def test_a_node_under_pressure_below_one_of_several_is_the_infrastructures(
    begin: Begin, cluster: Cluster
) -> None:
    backend = await begin(disruptions=2)
    cluster.script("*", FOREVER, Script(seconds=2, evicted="The node was low on resource: memory"), FOREVER)
    await backend.launch(order(settings=THREE))
    assert "infrastructure" == (await next_end(backend)).reason


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(seconds=2, oom="candidate"), "memory_limit"),
        (Script(seconds=2, exits={"candidate": 3}), "crashed"),
        (Script(seconds=2, exits={"evaluator": 75}), "infrastructure"),
        (Script(seconds=2, exits={"evaluator": 1}), "evaluator_crashed"),
    ],
)
async def test_the_pod_that_failed_is_the_cause_and_not_those_that_are_stopped_for_it(
    script: Script, reason: FailureReason, begin: Begin, cluster: Cluster
) -> None:
    backend = await begin()
    cluster.script("*", FOREVER, script, FOREVER)
    await backend.launch(order(settings=THREE))
    assert reason == (await next_end(backend)).reason
    await no_end(backend)


async def test_a_pod_that_was_stopped_and_is_seen_first_does_not_hide_the_one_that_was_the_cause(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    """Kubelets write in no order, and the end of the Job comes by another watch than those of its pods."""
    backend = await begin()
    cluster.script("*", FOREVER, Script(seconds=10, exits={"candidate": 3}), FOREVER)
    await until(lambda: server.requests["watch", "pods"])
    server.faults.arm(Fault("status", "GET", path="pods.*watch=true", times=10_000, code=500))
    server.drop_watches()
    await backend.launch(order(settings=THREE))
    await until(lambda: len(running_pods(cluster)) == 3)
    stopped = {"phase": "Failed", "containerStatuses": [ended("candidate", 143, end=11)]}
    backend._on_pod(deleted(pods(cluster)[0] | {"status": stopped}, 10))
    assert "crashed" == (await next_end(backend)).reason


async def test_one_pod_that_finds_no_node_ends_the_experiment_though_the_others_run(
    begin: Begin, cluster: Cluster
) -> None:
    backend = await begin(pending_seconds=0.5, start_seconds=10_000)
    cluster.script("*", FOREVER)
    await backend.launch(order(settings={"pods": 3, "gpus": 8}))
    end = await next_end(backend)
    assert "infrastructure" == end.reason
    assert "Insufficient nvidia.com/gpu" in end.message
    await until(lambda: not jobs(cluster) and not pods(cluster) and not policies(cluster))


def of_several(job: Manifest) -> Manifest:
    return job | {"spec": {"completions": 2}}


def deleted(found: Manifest, second: int) -> Manifest:
    """A pod that was asked to go, with five seconds of grace."""
    stamp = {"deletionTimestamp": at(second + 5), "deletionGracePeriodSeconds": 5}
    return found | {"metadata": found["metadata"] | {"name": "p-0"} | stamp}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([pod(ended("evaluator", 75, end=10)), deleted(pod(ended("candidate", 143, end=10)), 10)], "infrastructure"),
        ([deleted(pod(ended("candidate", 143, end=11)), 10)], "infrastructure"),
        ([deleted(pod(ended("candidate", 3, end=9)), 10)], "crashed"),
        ([disrupted(pod(ended("candidate", 143))), pod(ended("candidate", 1))], "infrastructure"),
    ],
)
def test_what_is_stopped_shows_nothing(found: list[Manifest], reason: FailureReason) -> None:
    for each in found:
        each["metadata"].setdefault("name", "p-1")
    assert reason == judge(IDENTITY, of_several(failed()), found).reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([running(since=10), running(since=40)], "wall_limit"),
        ([running(since=10), running(since=90)], "infrastructure"),
        ([running(since=10)], "infrastructure"),
    ],
)
def test_a_deadline_blames_the_candidate_only_for_the_time_all_pods_had(
    found: list[Manifest], reason: FailureReason
) -> None:
    """Each waits for the others before its program runs."""
    assert reason == judge(IDENTITY, of_several(failed("DeadlineExceeded", second=100)), found).reason


def test_why_nobody_came_is_told() -> None:
    gone = ended("candidate", 75)
    gone["state"]["terminated"]["message"] = "candidate: rank 3 of 4 did not come within 600 s"
    end = judge(IDENTITY, of_several(failed()), [pod(gone)])
    assert ("infrastructure", True) == (end.reason, "rank 3 of 4 did not come" in end.message)
