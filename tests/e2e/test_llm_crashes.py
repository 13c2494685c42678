"""Replicas of the researcher that die or freeze in the middle of a call: nothing is paid twice, no grant is passed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from evolvent import audit
from evolvent.embedded import Server as Nats
from evolvent.hosting import attached
from evolvent.models.settings import MODEL_KEYS
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_schemas import CandidateProposed, EffectRecorded, HandlingFailed, RoundClosed, RunFinished
from tests.e2e.designs import ROLES as IN_THE_RING
from tests.e2e.designs import TASK, Model, begin, facts, hosted, of, paid, returning
from tests.models.scripted import Behaviour, Body, Says, Server, scripted
from tests.processes import child

KEY = "sk-0123456789-not-for-others"
OTHERS = [role for role in IN_THE_RING if role != "researcher"]
WORST = 2600
"""A call's worst case lies between this many tokens and 2,200: 1,000 of answer and the prompt."""


@contextlib.asynccontextmanager
async def replica(settings: Settings, model: Server, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a researcher as a process of its own; kill it in the end."""
    environment = os.environ | {
        "EVOLVENT_HOME": str(settings.home),
        "EVOLVENT_ACK_WAIT": str(settings.ack_wait),
        "EVOLVENT_RETRY_DELAY": "0.1",
        "EVOLVENT_MODEL_BASE_URL": model.base_url,
        "EVOLVENT_MODEL_API_KEY": KEY,
    }
    with (settings.home / "replica.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def researcher(settings: Settings, model: Server) -> Any:
    return replica(settings, model, "evolvent_researcher")


async def check(settings: Settings, found: list[Any]) -> None:
    (finished,) = of(found, RunFinished)
    assert paid(found).tokens == finished.cost.tokens
    async with attached(settings) as platform:
        replayed = await audit.replay(platform, finished.run, ROLES)
    assert replayed.reproduced, replayed.findings


@pytest.mark.parametrize(("moment", "calls", "delivery"), [("before", 2, 2), ("after", 1, 1)])
async def test_a_recorded_answer_is_never_asked_for_again_and_one_that_was_not_is_booked(
    server: Nats, settings: Settings, moment: str, calls: int, delivery: int
) -> None:
    """kill -9 between answer and record, and between record and fact."""
    async with scripted(Model(), repeat=True) as model, hosted(settings, OTHERS) as platform:
        async with replica(settings, model, "tests.e2e.doomed", moment) as doomed:
            run = await begin(platform)
            async with asyncio.timeout(30):
                assert -signal.SIGKILL == await doomed.wait()
        async with researcher(settings, model):
            found = await facts(platform, run)
    (effect,) = of(found, EffectRecorded)

    assert (calls, delivery) == (len(model.calls), effect.delivery)
    assert ["completed"] * 2 == [closed.outcome for closed in of(found, RoundClosed)]
    await check(settings, found)


@pytest.mark.parametrize(
    ("tokens", "calls", "outcome"),
    [(2 * WORST, 2, "completed"), (WORST + 300, 1, "role_failed")],
    ids=["two calls fit", "one call fits"],
)
async def test_the_call_of_a_replica_that_died_counts_against_the_grant(
    server: Nats, settings: Settings, tokens: int, calls: int, outcome: str
) -> None:
    """It may have been paid for, so what it held stays held, and the other replica may spend the rest alone."""
    called = asyncio.Event()

    def kills(_: Body) -> Behaviour:
        called.set()
        return Says(returning(1).text, after=30)

    async with (
        scripted(Model([kills]), repeat=True) as model,
        hosted(settings, OTHERS) as platform,
        researcher(settings, model) as first,
    ):
        run = await begin(platform, tokens=tokens)
        async with asyncio.timeout(30):
            await called.wait()
        first.kill()
        async with researcher(settings, model):
            found = await facts(platform, run)

    assert calls == len(model.calls)
    assert outcome == of(found, RoundClosed)[-1].outcome
    assert ([] if calls == 2 else ["grant_exceeded"]) == [fact.reason for fact in of(found, HandlingFailed)]
    await check(settings, found)


async def test_two_replicas_on_one_fact_never_pass_the_grant(server: Nats, settings: Settings) -> None:
    """The first freezes while its call is answered, so the second gets the same fact; then the first goes on."""
    called, again = asyncio.Event(), asyncio.Event()

    def freezes(_: Body) -> Behaviour:
        called.set()
        return Says("no program", usage=(1500, 1000), after=1.5)

    def costly(_: Body) -> Behaviour:
        again.set()
        return Says("no program", usage=(1500, 1000), after=0.5)

    async with (
        scripted(Model([freezes, *[costly] * 9]), repeat=True) as model,
        hosted(settings, OTHERS) as platform,
        researcher(settings, model) as first,
    ):
        run = await begin(platform, tokens=8000)
        async with asyncio.timeout(30):
            await called.wait()
        os.kill(first.pid, signal.SIGSTOP)
        async with researcher(settings, model):
            async with asyncio.timeout(30):
                await again.wait()
            os.kill(first.pid, signal.SIGCONT)
            found = await facts(platform, run)

    assert 8000 >= 2500 * len(model.calls) > paid(found).tokens
    await check(settings, found)


def evolvent(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("evolvent")), *map(str, arguments), "--json"]


async def performed(
    *arguments: object, model: Server, key: str | None = KEY
) -> tuple[asyncio.subprocess.Process, "asyncio.Task[tuple[bytes, bytes]]"]:
    """Start a command with the endpoint in its environment, and with the key if there is to be one."""
    environment = {name: value for name, value in os.environ.items() if name not in MODEL_KEYS}
    environment |= {"EVOLVENT_MODEL_BASE_URL": model.base_url} | ({"OPENAI_API_KEY": key} if key else {})
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*evolvent(*arguments), env=environment, stdout=pipe, stderr=pipe)
    return process, asyncio.create_task(process.communicate())


async def test_a_key_reaches_the_roles_that_ask_and_nobody_else(tmp_path: Path) -> None:
    """`evolvent run --processes`: the engineer stands beside candidates, and no file of the home holds the key."""
    beside: list[bytes] = []
    home = tmp_path / "home"

    def looks(_: Body) -> Behaviour:
        engineer = child(process.pid, "-m evolvent_engineer")
        assert engineer is not None
        beside.append(Path(f"/proc/{engineer.pid}/environ").read_bytes())
        return returning(3)

    async with scripted(Model([looks]), repeat=True) as model:
        process, ended = await performed(
            "run", TASK, "--rounds", 1, "--processes", "--model", "gpt-4o", "--home", home, model=model
        )
        async with asyncio.timeout(60):
            output, complaints = await ended

    assert b'"state": "completed"' in output, complaints
    assert b'"tokens": 600' in output
    assert [False] == [KEY.encode() in environ for environ in beside]
    files = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


async def test_a_run_that_was_killed_goes_on_only_with_the_key(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def kills(_: Body) -> Behaviour:
        process.kill()
        return Says("never heard", after=30)

    async with scripted(Model([kills]), repeat=True) as model, asyncio.timeout(90):
        named = ("--rounds", 1, "--model", "gpt-4o", "--run", "keyed", "--home", home)
        process, ended = await performed("run", TASK, *named, model=model)
        await ended
        refused, ended = await performed("run", "keyed", "--home", home, model=model, key=None)
        _, complaint = await ended

    assert (-signal.SIGKILL, 2) == (process.returncode, refused.returncode)
    assert b"EVOLVENT_MODEL_API_KEY" in complaint


async def test_two_proposals_are_never_made_of_one_fact(server: Nats, settings: Settings) -> None:
    """Four rounds at once over two replicas, one of them killed in between."""
    async with (
        scripted(Model(), repeat=True) as model,
        hosted(settings, OTHERS) as platform,
        researcher(settings, model),
        researcher(settings, model) as second,
    ):
        run = await begin(platform, rounds=8, width=4, tokens=200_000)
        async for _ in platform.log("test").follow([f"evo.{run}.candidate.proposed.2.>"]):
            second.kill()
            break
        found = await facts(platform, run)

    proposed = [fact.candidate.partition(".")[0] for fact in of(found, CandidateProposed)]
    assert sorted({"h0", *map(str, range(8))}) == sorted(set(proposed))
    assert 200_000 >= 300 * len(model.calls)
    await check(settings, found)
