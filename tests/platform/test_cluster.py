"""Three nodes: without a quorum everything waits, and afterwards everything is stored once."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from evolvent.clock import now
from evolvent.errors import Rejected
from evolvent.journal import Effects
from evolvent.log import STREAM, Record, _headers
from evolvent.platform import Platform, open_platform
from evolvent.wire import Code
from evolvent_schemas import Fact, RoundOpened, fact_id
from tests.platform.facts import closed, opened, sampled
from tests.platform.roles import Opened, failures, wait_for, working
from tests.platform.servers import Cluster, Node, cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def run() -> str:
    """One cluster serves every test here; each has a run of its own."""
    return f"r{uuid4().hex[:8]}"


async def _leader(platform: Platform, nodes: Cluster) -> tuple[Node, list[Node]]:
    """Tell the node that leads the log from the others."""
    name = (await platform.wire.api(f"STREAM.INFO.{STREAM}"))["cluster"]["leader"]
    (leader,) = [node for node in nodes.nodes if node.folder.name == name]
    return leader, [node for node in nodes.nodes if node is not leader]


async def _raw(platform: Platform, fact: Fact, cause: UUID) -> int:
    """Publish once and give the sequence, an error code, or 0 for no answer."""
    id_ = fact_id(cause, fact.subject)
    try:
        reply = await platform.wire.publish(
            fact.subject, fact.body(), _headers(fact, id_, cause, now(), "test"), patience=0.5
        )
    except Rejected as error:
        return error.code
    except TimeoutError:
        return 0
    return int(reply["seq"])


async def test_of_racing_writers_one_wins_though_the_others_are_told_to_try_again(nodes: Cluster, run: str) -> None:
    async with open_platform(nodes.settings, "test") as platform:
        races = 0
        codes: list[int] = []
        while Code.WRITE_IN_FLIGHT not in codes and races < 50:  # a quick disk lets a write land before the next comes
            fact = opened(str(races := races + 1), run)
            codes = await asyncio.gather(*(_raw(platform, fact, uuid4()) for _ in range(20)))
        log = platform.log("test")
        records = await asyncio.gather(*(log.append(opened("0", run), cause=uuid4()) for _ in range(20)))

        assert Code.WRITE_IN_FLIGHT in codes
        assert 1 == len({record.id for record in records})
        assert races + 1 == len(await log.run(run))


async def test_without_a_quorum_an_append_waits_and_is_stored_once_when_it_returns(
    nodes: Cluster, run: str, said: list[MutableMapping[str, Any]]
) -> None:
    """The leader alone answers 10158 to a retry: the id is in process, and whether it will be stored is unknown."""
    async with open_platform(nodes.settings, "test") as platform:
        leader, followers = await _leader(platform, nodes)
    settings = nodes.settings.model_copy(update={"nats_url": leader.url})
    async with open_platform(settings, "test") as platform:
        log, cause = platform.log("test"), uuid4()
        for node in followers:
            await node.kill()
        codes = [await _raw(platform, closed("0", run=run), cause) for _ in range(4)]
        appending = asyncio.create_task(log.append(closed("0", run=run), cause=cause))
        await asyncio.sleep(6)
        waited = not appending.done()
        for node in followers:
            await node.start()
        async with asyncio.timeout(60):
            record = await appending

        assert waited
        assert Code.DUPLICATE_IN_PROCESS in codes
        assert {0, Code.DUPLICATE_IN_PROCESS} >= set(codes)
        assert record.cause == cause
        assert [record.id] == [found.id for found in await log.run(run)]
        assert "log.waiting" in {line["event"] for line in said}


async def test_a_role_waits_out_the_loss_of_the_leader_and_fails_nothing(nodes: Cluster, run: str) -> None:
    held, calls = asyncio.Event(), []

    async def decide(cause: Record[RoundOpened], _state: Opened, _effects: Effects) -> Sequence[Fact]:
        calls.append(cause.fact.round)
        await held.wait()
        return [sampled(cause.fact.round, run=cause.fact.run)]

    async with open_platform(nodes.settings, "test") as platform:
        leader, followers = await _leader(platform, nodes)
    survivor = followers[0]
    settings = nodes.settings.model_copy(update={"nats_url": survivor.url})
    async with open_platform(settings, "test") as platform:
        log = platform.log("test")
        async with working(platform, decide):
            await log.append(opened("0", run))
            await wait_for(log, opened("0", run).subject)
            await _until(calls)
            lost = [leader, followers[1]]
            for node in lost:
                await node.kill()
            held.set()
            await asyncio.sleep(2)
            for node in lost:
                await node.start()
            answer = await wait_for(log, sampled("0", run=run).subject, within=60)
        found = await log.run(run)

        assert "evolvent/researcher" == answer.source
        assert 2 == len(found)
        assert [] == await failures(log, run)


async def _until(calls: list[str]) -> None:
    for _ in range(200):
        if calls:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the role was never called")
