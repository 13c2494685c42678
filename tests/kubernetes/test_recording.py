"""Recording the end of a Job: in which order, and once, whoever dies or comes late."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvent.embedded import Server as NatsServer
from evolvent.platform import Platform
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.ends import End
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.role import Cluster as Connection
from evolvent_engineer.kubernetes.role import Dispatch
from evolvent_schemas import ExperimentFailed, ExperimentStarted
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Fault, Script
from tests.kubernetes.orders import SECRET, backend
from tests.kubernetes.test_wiring import at_work, begun, engineer, engineer_process, finished, of_kind, others
from tests.kubernetes.waiting import jobs, until


async def test_an_engineer_that_is_killed_while_it_removes_a_job_has_stored_its_end(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster, tmp_path: Path
) -> None:
    """kill -9: the Job goes all the same, and with it all that a later life could learn of the experiment."""
    cluster.script("*", Script(exits={"candidate": 3}))
    removing = server.faults.arm(Fault("slow", "DELETE", seconds=0.5))
    async with at_work(platform, *others(platform)):
        async with engineer_process(server, bus, tmp_path, "first") as first:
            run = await begun(platform, rounds=1)
            await until(lambda: not removing.times, 30)
            first.send_signal(signal.SIGKILL)
            await first.wait()
        await until(lambda: not jobs(cluster))
        async with at_work(platform, engineer(platform, server, bus)):
            await finished(platform, run)
    (failed,) = await of_kind(platform, run, ExperimentFailed)
    assert ("crashed", 0) == (failed.reason, failed.attempt)
    assert 1 == server.requests["create", "jobs"]


async def test_an_engineer_that_learns_of_an_end_late_begins_no_try_that_was_begun_already(
    platform: Platform, server: ApiServer, bus: NatsServer, cluster: Cluster
) -> None:
    """That try may have ended and be settled, so that its Job would be made anew. No analyzer: the round stays open."""

    async def fails_twice(pod: dict[str, Any]) -> Mapping[str, int]:
        first = pod["metadata"]["labels"]["evolvent/try"] == "0"
        return {"evaluator": 75, "candidate": 0} if first else {"evaluator": 0, "candidate": 3}

    cluster.script("*", Script(run=fails_twice))
    awake = [service for service in others(platform) if service.role != "analyzer"]
    late = Dispatch(platform, lambda _: Connection(backend(server.url, ADMIN_TOKEN), depot))
    depot = Depot(platform.wire, platform.artifacts, SECRET)
    async with at_work(platform, *awake, engineer(platform, server, bus)):
        run = await begun(platform, rounds=1)
        await until(lambda: 2 == len({name for name, _ in server.deletions}) and not jobs(cluster), 20)
        (first, *_) = await of_kind(platform, run, ExperimentStarted)
        async with late.running():
            await late.record(End(Identity(run, first.candidate, first.stage, first.seed, 0), "infrastructure"))
    assert 2 == server.requests["create", "jobs"]
    failed = await of_kind(platform, run, ExperimentFailed)
    assert [(0, "infrastructure"), (1, "candidate")] == [(fact.attempt, fact.blame) for fact in failed]
