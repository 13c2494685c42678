"""A role that always fails has a named outcome, and the run goes on when it is set right."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evolvent import audit, runs, task
from evolvent.embedded import embedded
from evolvent.ending import end
from evolvent.errors import Permanent
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.serve import factory, hosted
from evolvent.service import Handler, Runner
from evolvent.settings import Settings
from evolvent_schemas import Fact, HandlingFailed, Resume, RoundClosed, RunFinished, RunPaused, filter_for
from tests.chaos.ring import TASK

ROUNDS = 8


def _failing(handler: Handler) -> Handler:
    """Let a handler fail on every round of the ring; the baseline passes."""

    async def decide(cause: Any, state: Any, effects: Any) -> Sequence[Fact]:
        if not cause.fact.candidate.startswith("h"):
            raise Permanent("the analyzer is out of order")
        return await handler(cause, state, effects)

    return decide


@contextlib.asynccontextmanager
async def _out_of_order(settings: Settings, role: str) -> AsyncIterator[None]:
    async with open_platform(settings, role) as platform:
        service = factory(role)(platform)
        handlers = {cls: _failing(handler) for cls, handler in service.handlers.items()}
        runner = Runner(platform, replace(service, handlers=handlers))
        running = asyncio.create_task(runner.run())
        try:
            yield
        finally:
            await end(running)


async def _next(platform: Platform, cls: type[Fact]) -> Fact:
    async with asyncio.timeout(60):
        async for record in platform.log("test").follow([filter_for(cls)]):
            return record.fact
    raise AssertionError(cls)


async def test_a_role_that_always_fails_pauses_the_run_and_resume_goes_on(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", ack_wait=1.0)
    others = [role for role in ROLES if role != "analyzer"]
    async with embedded(settings), hosted(settings, others), open_platform(settings, "test") as platform:
        async with _out_of_order(settings, "analyzer"):
            run = await runs.start(platform, runs.Plan(task.load(TASK), 1, {"rounds": ROUNDS}, {"width": 2}))
            paused: Any = await _next(platform, RunPaused)
            await asyncio.sleep(1.0)
        async with hosted(settings, ["analyzer"]):
            await runs.issue(platform, run, Resume())
            finished: Any = await _next(platform, RunFinished)
        records = await platform.log("test").run(run)
        found = await audit.replay(platform, run, ROLES)
    closed = [record.fact for record in records if isinstance(record.fact, RoundClosed)]
    failed = [fact for fact in closed if fact.outcome == "role_failed"]
    given_up = [record.fact for record in records if isinstance(record.fact, HandlingFailed)]

    assert "role_failing" == paused.reason
    assert ("completed", ROUNDS) == (finished.state, finished.rounds_closed)
    assert sum(fact.outcome != "completed" for fact in closed) == finished.rounds_failed
    assert 3 <= len(failed) <= 4
    assert len(failed) == len(given_up)
    assert all("analyzer is out of order" in fact.message for fact in failed)
    assert ROUNDS + 1 == len(closed)
    assert found.reproduced, found.findings
