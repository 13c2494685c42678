"""Whose fault an end is, from a Job and what was seen of its pods. No cluster needed."""

from typing import Any

import pytest

from evolvent.errors import Refused, Transient
from evolvent_engineer.kubernetes.client import Expired, Patience, _decoded, _event
from evolvent_engineer.kubernetes.ends import End, has_evidence, judge, stuck
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_schemas.values import FailureReason
from tests.kubernetes.orders import order

Manifest = dict[str, Any]
IDENTITY = order().identity
GRANTED = 60


def at(second: int) -> str:
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z"


def failed(reason: str = "PodFailurePolicy", second: int = 100) -> Manifest:
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": "m", "lastTransitionTime": at(second)}
    return {"metadata": {"annotations": {"evolvent/wall-seconds": str(GRANTED)}}, "status": {"conditions": [condition]}}


def ended(name: str, code: int, reason: str = "Error", start: int = 0, end: int = 10) -> Manifest:
    state = {"exitCode": code, "reason": reason, "startedAt": at(start), "finishedAt": at(end)}
    return {"name": name, "state": {"terminated": state}}


def pod(*containers: Manifest, init: tuple[Manifest, ...] = (), phase: str = "Failed", **more: Any) -> Manifest:
    status = {"phase": phase, "containerStatuses": list(containers), "initContainerStatuses": list(init)} | more
    return {"metadata": {"uid": str(id(containers))}, "status": status}


def disrupted(found: Manifest) -> Manifest:
    found["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    return found


def running(since: int) -> Manifest:
    return pod({"name": "candidate", "state": {"running": {"startedAt": at(since)}}}, phase="Running")


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([], "infrastructure"),
        ([pod()], "infrastructure"),
        ([pod(phase="Pending")], "infrastructure"),
        ([pod(init=(ended("fetch", 1),))], "infrastructure"),
        ([disrupted(pod(ended("candidate", 143)))], "infrastructure"),
        ([disrupted(pod(ended("candidate", 143))), pod(ended("candidate", 1))], "crashed"),
        ([pod(ended("candidate", 137, "OOMKilled"), ended("evaluator", 1, end=5))], "memory_limit"),
        ([pod(ended("candidate", 1, end=9), ended("evaluator", 1, end=8))], "evaluator_crashed"),
        ([pod(ended("candidate", 1, end=8), ended("evaluator", 1, end=8))], "crashed"),
        ([pod(ended("candidate", 137, "Error"))], "crashed"),
        ([pod(ended("evaluator", 137, "Error"))], "infrastructure"),
        ([pod(ended("evaluator", 137, "OOMKilled"))], "evaluator_crashed"),
        (
            [pod(reason="Evicted", message="Container candidate exceeded its local ephemeral storage limit")],
            "disk_limit",
        ),
        ([disrupted(pod(reason="Evicted", message="The node was low on resource: memory"))], "infrastructure"),
        (
            [pod(reason="UnexpectedAdmissionError", message="Allocate failed due to no healthy devices")],
            "infrastructure",
        ),
    ],
)
def test_nobody_is_blamed_without_evidence(pods: list[Manifest], reason: FailureReason) -> None:
    assert reason == judge(IDENTITY, failed(), pods).reason


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([running(since=40)], "wall_limit"),
        ([running(since=41)], "wall_limit"),
        ([running(since=45)], "infrastructure"),
        ([disrupted(pod(ended("candidate", 143, start=0, end=50))), running(since=60)], "infrastructure"),
        ([], "infrastructure"),
    ],
)
def test_a_deadline_blames_the_candidate_only_for_time_it_had(pods: list[Manifest], reason: FailureReason) -> None:
    """The Job's deadline also counts waiting for a node, pulling, and what disrupted pods had run."""
    assert reason == judge(IDENTITY, failed("DeadlineExceeded", second=100), pods).reason


def test_a_deadline_without_a_pod_says_where_to_look() -> None:
    assert "evolvent doctor --cluster" in judge(IDENTITY, failed("DeadlineExceeded", second=100), []).message


def test_a_completed_job_whose_pods_were_never_seen_has_its_own_times() -> None:
    condition = {"type": "Complete", "status": "True", "lastTransitionTime": at(30)}
    job = {"metadata": {}, "status": {"conditions": [condition], "startTime": at(10), "completionTime": at(30)}}
    assert End(IDENTITY, None, "", {"wall_seconds": 20.0}, 20.0) == judge(IDENTITY, job, [])


def test_a_disrupted_pod_is_no_evidence() -> None:
    assert has_evidence([pod()])
    assert not has_evidence([disrupted(pod()), running(since=0)])


@pytest.mark.parametrize("reason", ["PodInitializing", "ContainerCreating"])
def test_a_container_that_is_being_created_is_not_stuck(reason: str) -> None:
    assert None is stuck(pod({"name": "candidate", "state": {"waiting": {"reason": reason}}}, phase="Pending"))


@pytest.mark.parametrize(
    "line", [b"<html>", b"[]", b"{}", b'{"type": "ADDED"}', b'{"type": "ADDED", "object": {}}', b"3"]
)
def test_what_is_no_event_starts_the_watch_anew(line: bytes) -> None:
    with pytest.raises(Transient, match="no event"):
        _event(line)


def test_an_error_event_is_named_by_its_code() -> None:
    with pytest.raises(Expired):
        _event(b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}')
    with pytest.raises(Transient, match="500"):
        _event(b'{"type": "ERROR", "object": {"code": 500}}')


@pytest.mark.parametrize("content", [b"<html>bad gateway</html>", b"", b"\xff\xfe", b"[1]"])
def test_a_body_that_is_no_object_becomes_its_message(content: bytes) -> None:
    assert ["message"] == list(_decoded(content))


def test_the_pause_between_attempts_doubles_and_never_undercuts_what_was_asked() -> None:
    patience = Patience(first=1, longest=5)
    assert [1, 2, 4, 5, 5] == [patience.delay(attempt, None) for attempt in range(5)]
    assert 30 == patience.delay(0, 30.0)


@pytest.mark.parametrize("text", ["", "r1", "r1-1.0.explore.0", "r1-1.0.explore.x.0", "r1-1.explore.0.0"])
def test_what_names_no_experiment_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Identity.parse(text)
