"""What the API server has to bear: a thousand Jobs at once, and an engineer that is killed."""

import asyncio
import signal
import sys
from pathlib import Path

from tests.kubernetes.conftest import RATE, Begin
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Node, Script
from tests.kubernetes.fake.resources import JOBS
from tests.kubernetes.orders import NAMESPACE, backend, order
from tests.kubernetes.waiting import next_end

ROOT = Path(__file__).parents[2]
THOUSAND = 1000


async def test_a_thousand_jobs_cost_one_request_each_and_two_watches() -> None:
    """No request is made per Job but its creation: ends come through the one watch of the namespace."""
    cluster = Cluster(nodes=(Node("large", cpu=10_000, memory="10000Gi"),), track_fields=False)
    cluster.namespace(NAMESPACE)
    cluster.script("*", Script(seconds=5))
    async with ApiServer(cluster, rate=RATE) as server:
        engineer = backend(server.url, ADMIN_TOKEN)
        await engineer.start()
        await asyncio.gather(*(engineer.launch(order(number)) for number in range(THOUSAND)))
        ends = [await next_end(engineer, 60) for _ in range(THOUSAND)]
        await engineer.close()
    asked = dict(server.requests)
    print(f"{THOUSAND} Jobs: {sum(asked.values())} requests, {asked}")
    assert {order(number).identity for number in range(THOUSAND)} == {end.identity for end in ends}
    assert {None} == {end.reason for end in ends}
    assert THOUSAND == asked["create", "jobs"]
    assert sum(asked.values()) - THOUSAND <= 20  # two lists, two watches, and what a slow machine makes of them


async def test_a_thousand_failures_ask_for_each_pod_at_most_once(
    begin: Begin, server: ApiServer, cluster: Cluster
) -> None:
    """A hundred here: the bound is per Job."""
    cluster.script("*", Script(exits={"candidate": 1}))
    engineer = await begin()
    await asyncio.gather(*(engineer.launch(order(number)) for number in range(100)))
    ends = [await next_end(engineer, 60) for _ in range(100)]
    assert {"crashed"} == {end.reason for end in ends}
    assert server.requests["list", "pods"] <= 101


async def test_jobs_of_a_killed_engineer_are_adopted(begin: Begin, server: ApiServer, cluster: Cluster) -> None:
    """kill -9 between two creations: what was launched goes on, and launching again makes nothing twice."""
    cluster.script("*", Script(seconds=20))
    command = [sys.executable, "-m", "tests.kubernetes.engineer_life", server.url, "20"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    launched = [int(await process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert [0, 1, 2, 3, 4] == launched
    left = {job["metadata"]["uid"] for job in cluster.store.all(JOBS, NAMESPACE)}
    engineer = await begin()
    await asyncio.gather(*(engineer.launch(order(number)) for number in range(8)))
    there = {job["metadata"]["uid"]: job["metadata"]["name"] for job in cluster.store.all(JOBS, NAMESPACE)}
    assert left <= there.keys()
    assert len(there) == max(len(left), 8)
    ends = [await next_end(engineer) for _ in there]
    assert set(there.values()) == {end.identity.name for end in ends}
    assert {None} == {end.reason for end in ends}
