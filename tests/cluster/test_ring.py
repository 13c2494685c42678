"""A whole run on three nodes, each role as its own user, goes on when the log's leader is killed."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from evolvent import acl, audit, runs, task
from evolvent.log import STREAM
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.serve import hosted
from evolvent_schemas import HandlingFailed, RoundClosed, RunFinished, filter_for
from tests.cluster.servers import Guarded, guarded
from tests.platform.servers import Node

TASK = Path(__file__).parents[2] / "bench" / "tasks" / "instant"
ROUNDS = 12


@contextlib.asynccontextmanager
async def ring(bus: Guarded) -> AsyncIterator[None]:
    """Every role on a connection of its own, under its own permissions, on different nodes."""
    async with contextlib.AsyncExitStack() as stack:
        for number, role in enumerate(ROLES):
            await stack.enter_async_context(hosted(bus.settings(role, number % len(bus.nodes)), [role]))
        yield


async def kill_leader(platform: Platform, bus: Guarded) -> Node:
    name = (await platform.wire.api(f"STREAM.INFO.{STREAM}"))["cluster"]["leader"]
    (leader,) = [node for node in bus.nodes if node.folder.name == name]
    await leader.kill()
    return leader


async def test_a_run_under_the_permissions_survives_kill_9_of_the_leader_loses_nothing_and_can_be_audited(
    tmp_path: Path,
) -> None:
    killed = None
    async with (
        guarded(tmp_path, 3) as bus,
        ring(bus),
        open_platform(bus.settings("user"), "user") as user,
        asyncio.timeout(150),
    ):
        plan = runs.Plan(task.load(TASK), 1, {"rounds": ROUNDS}, {"width": 2})
        run = await runs.start(user, plan)
        log, closed = user.log("user"), 0
        async for record in log.follow([filter_for(RoundClosed, run), filter_for(RunFinished, run)]):
            if isinstance(record.fact, RunFinished):
                break
            closed += 1
            if closed == 4:
                killed = await kill_leader(user, bus)
        records = await log.run(run)
        alive = next(number for number, node in enumerate(bus.nodes) if node is not killed)
        async with open_platform(bus.settings(acl.TOOLS, alive), acl.TOOLS) as tools:  # who may only read
            assert [] == (await audit.replay(tools, run, ROLES)).findings

    assert killed is not None
    assert isinstance(records[-1].fact, RunFinished)
    rounds = Counter(record.fact.round for record in records if isinstance(record.fact, RoundClosed))
    assert {"h0": 1} | {str(number): 1 for number in range(ROUNDS)} == dict(rounds), "the baseline's, then 0 to 11"
    assert [] == [record.fact for record in records if isinstance(record.fact, HandlingFailed)]
    assert len(records) == len({record.id for record in records}) == len({record.fact.subject for record in records})
    ids = {record.id for record in records}
    assert {record.cause for record in records if record.cause not in ids} == {records[0].cause}, "a cause is missing"
    owners = {record.fact.publisher for record in records} - {"*"}
    assert {"user", "conductor", "researcher", "engineer", "analyzer", "cognition"} == owners
    own = [record for record in records if record.fact.publisher != "*"]
    assert [f"evolvent/{record.fact.publisher}" for record in own] == [record.source for record in own]
