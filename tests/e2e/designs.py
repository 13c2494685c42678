"""A scripted model that designs programs which return a number, words lessons and judges; and a ring to measure them.

The engineer's backend scores a program at once by the number it returns, so that a run takes about a second; all else
is the real ring over a real nats-server.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolvent import runs, task
from evolvent.platform import Platform, open_platform
from evolvent.serve import factory
from evolvent.service import Runner, Service
from evolvent.settings import Settings
from evolvent_engineer.backend import Completed, Experiment, Outcome
from evolvent_engineer.handlers import Engineer
from evolvent_researcher.edits import Hunk, written_edit, written_file
from evolvent_schemas import Fact, RunFinished, subjects
from evolvent_schemas.values import Cost, ModelCall, SandboxTier
from tests.models.scripted import Behaviour, Body, Says, Server

TASK = Path(__file__).parent / "task"
MODEL = "gpt-4o"
"""It has a price in the shipped table."""
USAGE = (200, 100)
"""Tokens in and out that every answer reports."""
PATIENCE = 40.0
Step = Behaviour | Callable[[Body], Behaviour]


def said(body: Body) -> str:
    return "\n".join(str(message["content"]) for message in body["messages"])


def design(blocks: str, **changes: Any) -> Says:
    """Write an answer of a designer."""
    intent = {"motivation": "one more", "cited": [], "prediction": {"low": 0, "expected": 1, "high": 9}} | changes
    return Says(f"Thoughts.\n```json\n{json.dumps(intent)}\n```\n{blocks}", usage=USAGE)


def returning(number: int, **changes: Any) -> Says:
    """Design the whole program that returns a number."""
    return design(written_file("program.py", f"def value():\n    return {number}\n"), **changes)


def adds_one(body: Body) -> Says:
    """Edit the parent to return one more."""
    found = re.search(r"## Program \S+: score.*?return (\d+)", said(body), re.DOTALL)
    assert found is not None
    old = int(found[1])
    return design(
        written_edit("program.py", Hunk((f"    return {old}",), (f"    return {old + 1}",)))
        if "SEARCH" in said(body)
        else written_file("program.py", f"def value():\n    return {old + 1}\n")
    )


LESSON = {"change": "one more", "effect": "value rose by 1", "attempt": "again", "avoid": "", "prediction": "above 9"}


def teaches(_: Body) -> Says:
    return Says(json.dumps({"lessons": [LESSON]}), usage=USAGE)


def judges(_: Body) -> Says:
    return Says(json.dumps({"reasons": "larger", "score": 7}), usage=USAGE)


@dataclass
class Model:
    """One step for every call, by what it asks; after the scripted ones all answers are good."""

    designs: list[Step] = field(default_factory=list)
    lessons: list[Step] = field(default_factory=list)
    judgements: list[Step] = field(default_factory=list)

    def __call__(self, body: Body) -> Behaviour:
        first = str(body["messages"][0]["content"])
        steps, good = (
            (self.designs, adds_one)
            if first.startswith("You are the researcher")
            else (self.lessons, teaches)
            if first.startswith("You are the analyst")
            else (self.judgements, judges)
        )
        step: Step = steps.pop(0) if steps else good
        return step if hasattr(step, "play") else step(body)  # type: ignore[return-value, operator]


def designs_of(server: Server) -> list[str]:
    """List what the designers were asked."""
    return [said(call.body) for call in server.calls if said(call.body).startswith("You are the researcher")]


class Instant:
    """A backend that answers at once: the number that the program returns."""

    tier: SandboxTier = "T3"

    async def start(self) -> None:
        """Have nothing to make ready."""

    async def evaluate(self, experiment: Experiment) -> Outcome:
        found = re.search(r"return (\d+)", experiment.files["program.py"])
        score = float(found[1]) if found else 0.0
        return Completed(score, {"value": score}, 0.0, 0.0, 0.0, "")

    async def close(self) -> None:
        """Have nothing to close."""


ROLES = ("conductor", "cognition", "engineer", "analyzer", "researcher")


@contextlib.asynccontextmanager
async def hosted(settings: Settings, roles: Sequence[str] = ROLES) -> AsyncIterator[Platform]:
    """Host roles in this process, the engineer with the instant backend."""
    async with open_platform(settings, "ring") as platform:
        runners = [Runner(platform, service(platform, role)) for role in roles]
        working = [asyncio.create_task(runner.run()) for runner in runners]
        try:
            yield platform
        finally:
            for runner in runners:
                runner.stop()
            await asyncio.gather(*working)


def service(platform: Platform, role: str) -> Service[Any]:
    found = factory(role)(platform)
    if role != "engineer":
        return found
    return Service(found.role, found.fold, Engineer(Instant(), "instant", platform.settings.home / "work").handlers)


async def begin(
    platform: Platform, *, rounds: int = 1, tokens: int | None = None, folder: Path = TASK, **options: Any
) -> str:
    """Start a run. What the folder holds is not checked again: another release may have packed it."""
    wanted = {"proposer": "llm", "models": (MODEL,), "max_tokens": 1000} | options
    packed = replace(task.load(TASK), folder=folder)
    return await runs.start(platform, runs.Plan(packed, 1, {"rounds": rounds, "tokens": tokens}, wanted))


async def facts(platform: Platform, run: str) -> list[Fact]:
    """Wait for the end of a run and list its facts."""
    log = platform.log("test")
    async with asyncio.timeout(PATIENCE):
        async for record in log.follow([subjects.of_run(run)]):
            if isinstance(record.fact, RunFinished):
                break
    return [record.fact for record in await log.run(run)]


def of(found: Sequence[Fact], kind: type[Any]) -> list[Any]:
    return [fact for fact in found if isinstance(fact, kind)]


def ends(calls: Sequence[ModelCall]) -> list[str]:
    return [f"{call.purpose} {call.outcome}" for call in calls]


def paid(found: Sequence[Fact]) -> Cost:
    """Add up the recorded answers."""
    return sum((fact.cost for fact in found if fact.type == "effect.recorded"), Cost())  # type: ignore[attr-defined]
