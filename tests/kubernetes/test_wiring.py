"""The engineer on a cluster: a whole ring whose experiments are Jobs, engineers that die, halts, tries."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evolvent import audit, runs, task
from evolvent.embedded import Server as NatsServer
from evolvent.errors import Permanent, Refused
from evolvent.platform import Platform
from evolvent.provision import ROLES
from evolvent.serve import factory
from evolvent.service import Runner, Service
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.role import Cluster as Connection
from evolvent_engineer.kubernetes.role import connected, on_kubernetes
from evolvent_schemas import (
    ExperimentCompleted,
    ExperimentFailed,
    ExperimentStarted,
    Fact,
    Halt,
    HandlingFailed,
    RoundClosed,
    RunFinished,
    subjects,
)
from tests.deploy import ring
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Fault, Script
from tests.kubernetes.fake.resources import QUOTAS
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.orders import IMAGE, NAMESPACE, PATIENCE, SECRET, backend
from tests.kubernetes.waiting import FOREVER, jobs, pods, running, until

JOBS_COUNT = "count/jobs.batch"
TASK = Path(__file__).parents[1] / "chaos" / "task"
SLOW = """
import time

def point():
    time.sleep(4)
    return (0.5, 0.5)
"""


@pytest.fixture
def rate() -> float:
    """Slower than elsewhere: pods that really run must not meet a simulated deadline."""
    return 2.0


@pytest.fixture
async def kubelet(bus: NatsServer, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Kubelet]:
    found = Kubelet(tmp_path / "pods", {"token": bus.token})
    cluster.script("*", Script(run=found))
    yield found
    print(found.logs())


def failing_at_first(kubelet: Kubelet) -> Script:
    """The first try of each experiment ends by the infrastructure; the others run."""

    async def run(pod: Any) -> Mapping[str, int]:
        first = pod["metadata"]["labels"]["evolvent/try"] == "0"
        return {"evaluator": 75, "candidate": 0} if first else await kubelet(pod)

    return Script(run=run)


def slow_task(folder: Path) -> Path:
    (folder / "baseline").mkdir(parents=True)
    for name in ("task.toml", "brief.md", "evaluate.py"):
        (folder / name).write_text((TASK / name).read_text())
    (folder / "baseline" / "program.py").write_text(SLOW)
    return folder


@contextlib.asynccontextmanager
async def at_work(platform: Platform, *services: Service[Any]) -> AsyncIterator[None]:
    runners = [Runner(platform, service) for service in services]
    working = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield
    finally:
        for runner in runners:
            runner.stop()
        await asyncio.gather(*working)


def others(platform: Platform) -> list[Service[Any]]:
    return [factory(role)(platform) for role in ROLES if role != "engineer"]


def engineer(platform: Platform, server: ApiServer, bus: NatsServer) -> Service[Any]:
    """An engineer in this process, on the fake cluster."""
    depot = Depot(platform.wire, platform.artifacts, SECRET)
    return on_kubernetes(
        platform, lambda _: Connection(backend(server.url, ADMIN_TOKEN, nats_url=bus.url, sandbox="T2"), depot)
    )


def kubeconfig(server: ApiServer, place: Path) -> Path:
    place.write_text(ring.kubeconfig(server.url))
    return place


@contextlib.asynccontextmanager
async def engineer_process(
    server: ApiServer, bus: NatsServer, folder: Path, name: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An engineer as it is deployed: everything from its environment and its kubeconfig."""
    environment = os.environ | {
        "KUBECONFIG": str(kubeconfig(server, folder / f"{name}.kubeconfig")),
        "EVOLVENT_HOME": str(folder / name),
        "EVOLVENT_NATS_URL": bus.url,
        "EVOLVENT_NATS_TOKEN": bus.token,
        "EVOLVENT_ACK_WAIT": "1",
        "EVOLVENT_ENGINEER_BACKEND": "kubernetes",
        "EVOLVENT_EXPERIMENT_IMAGE": IMAGE,
        "EVOLVENT_EXPERIMENT_NAMESPACE": NAMESPACE,
        "EVOLVENT_EXPERIMENT_NATS_URL": bus.url,
        "EVOLVENT_EXPERIMENT_SIGNING_SECRET": SECRET,
        "EVOLVENT_EXPERIMENT_SANDBOX": "T2",
    }
    with (folder / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", "evolvent_engineer"]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        print((folder / f"{name}.log").read_text())


async def finished(platform: Platform, run: str, within: float = 80) -> RunFinished:
    async with asyncio.timeout(within):
        async for record in platform.log("test").follow([subjects.fact(run, "run.finished")]):
            assert isinstance(record.fact, RunFinished)
            return record.fact
    raise AssertionError("the log ended")


async def appeared(platform: Platform, run: str, kind: type[Fact], within: float = 30) -> Fact:
    async with asyncio.timeout(within):
        async for record in platform.log("test").follow([subjects.of_run(run)]):
            if isinstance(record.fact, kind):
                return record.fact
    raise AssertionError("the log ended")


async def of_kind(platform: Platform, run: str, *kinds: type[Fact]) -> list[Any]:
    return [record.fact for record in await platform.log("test").run(run) if isinstance(record.fact, kinds)]


async def begun(platform: Platform, folder: Path = TASK, rounds: int = 2, **options: Any) -> str:
    return await runs.start(platform, runs.Plan(task.load(folder), 1, {"rounds": rounds}, options))


async def test_a_whole_run_is_measured_in_pods_and_reproduces(
    platform: Platform,
    server: ApiServer,
    bus: NatsServer,
    kubelet: Kubelet,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every experiment is one Job whose three containers are processes here; the audit needs no cluster."""
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform)
        end = await finished(platform, run)
        await until(lambda: not jobs(cluster))
    assert ("completed", 0) == (end.state, end.rounds_failed)
    completed = await of_kind(platform, run, ExperimentCompleted)
    assert {"T0"} == {fact.tier for fact in completed}
    assert len(completed) == len(kubelet.started) == len(set(kubelet.started))
    assert len(completed) >= 3
    for name in ("local", "kubernetes"):
        monkeypatch.setenv("EVOLVENT_ENGINEER_BACKEND", name)
        assert [] == (await audit.replay(platform, run, ROLES)).findings


async def test_an_engineer_that_is_killed_in_the_middle_of_training_leaves_its_job_to_the_other(
    platform: Platform, server: ApiServer, bus: NatsServer, kubelet: Kubelet, cluster: Cluster, tmp_path: Path
) -> None:
    """kill -9: the Job goes on, is adopted, is trained once, and there is exactly one result fact of it."""
    folder = slow_task(tmp_path / "task")
    async with at_work(platform, *others(platform)), engineer_process(server, bus, tmp_path, "first") as first:
        run = await begun(platform, folder, rounds=1)
        await appeared(platform, run, ExperimentStarted)
        await until(lambda: kubelet.started)
        async with engineer_process(server, bus, tmp_path, "second"):
            watches = server.requests["watch", "jobs"]
            first.send_signal(signal.SIGKILL)
            await first.wait()
            await until(lambda: server.requests["watch", "jobs"] > watches)
            assert [] == await of_kind(platform, run, ExperimentCompleted, ExperimentFailed)
            end = await finished(platform, run)
            await until(lambda: not jobs(cluster))
    assert "completed" == end.state
    started = await of_kind(platform, run, ExperimentStarted)
    completed = await of_kind(platform, run, ExperimentCompleted)
    assert [] == await of_kind(platform, run, ExperimentFailed)
    assert len(started) == len(completed) == len(kubelet.started) == len(set(kubelet.started))


async def test_a_failure_of_the_cluster_is_another_try_and_never_the_candidates(
    platform: Platform, server: ApiServer, bus: NatsServer, kubelet: Kubelet, cluster: Cluster
) -> None:
    cluster.script("*", failing_at_first(kubelet))
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, rounds=1)
        end = await finished(platform, run)
    assert ("completed", 0) == (end.state, end.rounds_failed)
    failed = await of_kind(platform, run, ExperimentFailed)
    assert {("infrastructure", 0)} == {(fact.blame, fact.attempt) for fact in failed}
    assert {1} == {fact.attempt for fact in await of_kind(platform, run, ExperimentCompleted)}
    assert [] == (await audit.replay(platform, run, ROLES)).findings


async def test_after_the_last_try_the_role_gives_up_and_the_round_closes(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", Script(exits={"evaluator": 75}))
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, rounds=1)
        end = await finished(platform, run)
        await until(lambda: not jobs(cluster))
    assert "failed" == end.state  # the baseline could not be measured
    (given_up,) = await of_kind(platform, run, HandlingFailed)
    assert ("engineer", "h0") == (given_up.role, given_up.round)
    assert [0, 1, 2] == [fact.attempt for fact in await of_kind(platform, run, ExperimentFailed)]
    assert ["role_failed"] == [fact.outcome for fact in await of_kind(platform, run, RoundClosed)]


async def test_a_halt_removes_the_jobs_of_the_run_within_five_seconds(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", FOREVER)
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, rounds=1)
        await until(lambda: running(cluster))
        await runs.issue(platform, run, Halt())
        await until(lambda: not jobs(cluster) and not pods(cluster), 5)
        await asyncio.sleep(0.5)
        assert [] == jobs(cluster)
    assert [] == await of_kind(platform, run, ExperimentCompleted, ExperimentFailed)


async def test_a_job_of_a_run_that_was_halted_while_no_engineer_lived_is_removed(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", FOREVER)
    async with at_work(platform, *others(platform)):
        async with at_work(platform, engineer(platform, server, bus)):
            run = await begun(platform, rounds=1)
            await until(lambda: running(cluster))
        await runs.issue(platform, run, Halt())
        await asyncio.sleep(0.5)
        assert 1 == len(jobs(cluster))
        async with at_work(platform, engineer(platform, server, bus)):
            await until(lambda: not jobs(cluster), 5)


async def test_jobs_that_a_finished_run_did_not_wait_for_are_removed_and_the_audit_misses_nothing(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", FOREVER)
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, rounds=1, round_seconds=2)
        assert "failed" == (await finished(platform, run)).state
        await until(lambda: not jobs(cluster) and not pods(cluster), 5)
    assert 1 == len(await of_kind(platform, run, ExperimentStarted))
    assert [] == await of_kind(platform, run, ExperimentCompleted, ExperimentFailed)
    assert [] == (await audit.replay(platform, run, ROLES)).findings


@pytest.mark.parametrize("engineers", [1, 2])
async def test_jobs_that_a_closed_round_did_not_wait_for_are_removed_and_not_tried_again(
    engineers: int,
    platform: Platform,
    server: ApiServer,
    bus: NatsServer,
    kubelet: Kubelet,
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    """One seed of round 0 fails and closes it; the round beside it trains on."""

    async def one_seed_fails(pod: dict[str, Any]) -> Mapping[str, int]:
        labels = pod["metadata"]["labels"]
        if labels["evolvent/candidate"] == "h0.0":
            return await kubelet(pod)
        if (labels["evolvent/candidate"], labels["evolvent/seed"]) == ("0.0", "1"):
            return {"evaluator": 0, "candidate": 3}
        return await asyncio.Event().wait() or {}

    def measured() -> set[str]:
        return {job["metadata"]["labels"]["evolvent/candidate"] for job in jobs(cluster)}

    cluster.script("*", Script(run=one_seed_fails))
    folder = slow_task(tmp_path / "task")
    (folder / "baseline" / "program.py").write_text((TASK / "baseline" / "program.py").read_text())
    (folder / "task.toml").write_text((folder / "task.toml").read_text().replace("seeds = 1", "seeds = 2"))
    async with at_work(platform, *others(platform), *(engineer(platform, server, bus) for _ in range(engineers))):
        run = await begun(platform, folder, rounds=2)
        await until(lambda: {"1.0"} < measured(), 60)
        await until(lambda: {"1.0"} == measured(), 20)
        await asyncio.sleep(1)  # another try would show
        assert {"1.0"} == measured()
        await runs.issue(platform, run, Halt())
        await until(lambda: not jobs(cluster) and not pods(cluster), 5)
    assert {0} == {fact.attempt for fact in await of_kind(platform, run, ExperimentStarted)}
    failed = await of_kind(platform, run, ExperimentFailed)
    assert {("0.0", 1, "candidate")} == {(fact.candidate, fact.seed, fact.blame) for fact in failed}
    assert [] == (await audit.replay(platform, run, ROLES)).findings


async def test_another_try_needs_no_more_quota_than_the_first(
    platform: Platform, server: ApiServer, bus: NatsServer, kubelet: Kubelet, cluster: Cluster
) -> None:
    """A Job that has ended counts until it is removed: the next may not wait for room that this one holds."""
    cluster.script("*", failing_at_first(kubelet))
    quota = {"metadata": {"name": "one", "namespace": NAMESPACE, "uid": "one"}, "spec": {"hard": {JOBS_COUNT: "1"}}}
    cluster.store.create(QUOTAS, {"kind": "ResourceQuota", "apiVersion": "v1"} | quota, "admin")
    await until(lambda: cluster.store.get(QUOTAS, NAMESPACE, "one").get("status"))
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, rounds=1, width=1)
        assert "completed" == (await finished(platform, run)).state
    assert {1} == {fact.attempt for fact in await of_kind(platform, run, ExperimentCompleted)}


async def test_a_job_that_is_still_being_asked_for_is_not_missed_by_a_new_list(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    """The server has the request wait and compacts its versions meanwhile; a second Job would be a twin."""
    cluster.script("*", FOREVER)
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        await until(lambda: server.requests["watch", "jobs"])
        server.faults.arm(Fault("status", "POST", path="jobs", code=429, retry_after=3))
        server.faults.arm(Fault("status", "GET", path="jobs.*watch=true", code=410))
        run = await begun(platform, rounds=1)
        await until(lambda: server.requests["fault", "429"], 20)
        lists = server.requests["list", "jobs"]
        server.drop_watches()
        await until(lambda: server.requests["list", "jobs"] > lists)
        await until(lambda: running(cluster))
        await asyncio.sleep(0.5)
        assert ["0"] == [job["metadata"]["labels"]["evolvent/try"] for job in jobs(cluster)]
    assert [] == await of_kind(platform, run, ExperimentFailed)


async def test_an_api_server_that_is_away_for_many_deliveries_fails_no_round(
    platform: Platform, server: ApiServer, bus: NatsServer, kubelet: Kubelet
) -> None:
    fault = server.faults.arm(Fault("status", "POST", path="jobs", times=10_000, code=503))
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, rounds=1)
        await until(lambda: fault.times < 10_000 - 8 * PATIENCE.attempts, 30)
        fault.times = 0
        end = await finished(platform, run)
    assert ("completed", 0) == (end.state, end.rounds_failed)
    assert [] == await of_kind(platform, run, HandlingFailed)


async def test_a_job_that_vanished_while_no_engineer_lived_is_tried_again(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", FOREVER)
    async with at_work(platform, *others(platform)):
        async with at_work(platform, engineer(platform, server, bus)):
            run = await begun(platform, rounds=1)
            await appeared(platform, run, ExperimentStarted)
        (job,) = jobs(cluster)
        cluster.delete_job(job, "Background")
        async with at_work(platform, engineer(platform, server, bus)):
            await until(lambda: ["1"] == [job["metadata"]["labels"]["evolvent/try"] for job in jobs(cluster)])
    (failed,) = await of_kind(platform, run, ExperimentFailed)
    assert ("infrastructure", 0) == (failed.blame, failed.attempt)
    assert "the Job is gone" in failed.message


async def test_two_engineers_that_see_one_end_store_one_fact(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", Script(exits={"candidate": 3}))
    async with at_work(platform, *others(platform)):
        pair = engineer(platform, server, bus), engineer(platform, server, bus)
        async with at_work(platform, *pair):
            run = await begun(platform, rounds=1)
            await finished(platform, run)
            await until(lambda: not jobs(cluster))
    (failed,) = await of_kind(platform, run, ExperimentFailed)
    assert ("crashed", "candidate") == (failed.reason, failed.blame)
    assert 1 == len(await of_kind(platform, run, ExperimentStarted))


async def test_an_api_server_that_is_away_delays_a_job_and_loses_none(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    cluster.script("*", Script(exits={"candidate": 3}))
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        server.faults.arm(Fault("status", "POST", times=8, code=503))
        run = await begun(platform, rounds=1)
        end = await finished(platform, run)
    assert "failed" == end.state
    assert 1 == len(await of_kind(platform, run, ExperimentFailed))


async def test_a_program_that_cannot_be_imported_costs_no_job(
    platform: Platform, server: ApiServer, bus: NatsServer, tmp_path: Path
) -> None:
    folder = slow_task(tmp_path / "task")
    (folder / "baseline" / "program.py").write_text("def other():\n    return 1\n")
    async with at_work(platform, *others(platform), engineer(platform, server, bus)):
        run = await begun(platform, folder, rounds=1)
        await finished(platform, run)
    (failed,) = await of_kind(platform, run, ExperimentFailed)
    assert ("static_check", "candidate") == (failed.reason, failed.blame)
    assert 0 == server.requests["create", "jobs"]


async def test_a_role_that_can_learn_no_end_any_more_stops(
    platform: Platform, server: ApiServer, bus: NatsServer
) -> None:
    """A supervisor starts it again; one that only looked alive would leave every Job unrecorded."""
    kubernetes = backend(server.url, ADMIN_TOKEN)
    depot = Depot(platform.wire, platform.artifacts, SECRET)
    runner = Runner(platform, on_kubernetes(platform, lambda _: Connection(kubernetes, depot)))
    working = asyncio.create_task(runner.run())
    await until(lambda: server.requests["watch", "jobs"])
    await asyncio.sleep(0.2)
    kubernetes._fail(KeyError("a bug"))
    with pytest.raises(Permanent, match="the cluster cannot be followed any more: 'a bug'"):
        async with asyncio.timeout(10):
            await working


async def test_what_the_cluster_must_be_told_is_named(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVENT_ENGINEER_BACKEND", "kubernetes")
    service = factory("engineer")(platform)
    assert "engineer" == service.role
    with pytest.raises(Refused, match=r"EVOLVENT_EXPERIMENT_IMAGE: .*EVOLVENT_EXPERIMENT_SIGNING_SECRET"):
        connected(platform)
