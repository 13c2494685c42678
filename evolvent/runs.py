"""Start runs and speak to them: every write is one directive that any other client could publish."""

import asyncio
import contextlib
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolvent import task
from evolvent.clock import new_id, new_seed
from evolvent.errors import Refused
from evolvent.log import Record
from evolvent.platform import Platform
from evolvent.summary import FOLD, Summary
from evolvent_schemas import ROOT, DirectiveIssued, Fact, Request, RunStarted, Start, fact_id, filter_for, subjects
from evolvent_schemas.values import Budget, Program, RunSettings, Stage

USER = "local"
"""Who the command line speaks as."""
ANSWER_WITHIN = 4.0
"""Seconds a conductor has to answer before a command leaves; the directive stands on the log either way."""


@dataclass(frozen=True)
class Plan:
    """A task and how it is to be searched."""

    task: task.Task
    seed: int | None = None
    budget: dict[str, Any] | None = None
    """Keys of `[budget]` in task.toml to set otherwise."""
    options: dict[str, Any] | None = None
    """Fields of `RunSettings` to set otherwise."""

    def settings(self, bundle: str) -> RunSettings:
        """Combine the task's own settings with what was asked for.

        Raises:
            Refused: a value is out of range; the message names the option.
        """
        spec = self.task.spec
        try:
            budget = Budget.model_validate(spec.budget.model_dump() | (self.budget or {}))
            wanted = {"width": spec.width, "round_seconds": _round_seconds(spec.stages[0]), **(self.options or {})}
            seed = new_seed() if self.seed is None else self.seed
            return RunSettings(task=spec, bundle=bundle, seed=seed, budget=budget, **wanted)
        except ValidationError as error:
            reasons = (f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
            raise Refused("; ".join(reasons)) from error


def _round_seconds(stage: Stage) -> float:
    """Give a round all that its seeds may take, one after the other, and an hour for everything else."""
    return 3600.0 + stage.seeds * stage.limits.wall_seconds


async def start(platform: Platform, plan: Plan, run: str | None = None) -> str:
    """Ask for a new run and return its id.

    Raises:
        Refused: a run with this id has started, or an option is out of range.
    """
    name = run or new_id()
    asked = subjects.fact(name, "directive.issued", f"{USER}.start")
    if await platform.log("user").read(asked) is not None:
        raise Refused(f"run {name} has already started; `evolvent run {name}` goes on with it")
    plan.settings("0" * 64)  # what is out of range stops before anything is stored
    bundle = await platform.artifacts.put(task.pack(plan.task.folder))
    baseline = Program.of(plan.task.baseline)
    await platform.artifacts.put_program(baseline, plan.task.baseline)
    await issue(platform, name, Start(settings=plan.settings(bundle), baseline=baseline), directive="start")
    return name


async def issue(platform: Platform, run: str, request: Request, directive: str | None = None) -> DirectiveIssued:
    """Publish a directive; the conductor's answer stands on the log once it has handled it."""
    issued = DirectiveIssued(run=run, user=USER, directive=directive or new_id(10), request=request)
    await platform.log("user").append(issued)
    return issued


async def answer(platform: Platform, issued: DirectiveIssued, *, within: float) -> Fact | None:
    """Wait for what the conductor makes of a directive: the first fact that it causes.

    None after `within` seconds without one; the directive stands on the log either way.
    """
    cause = fact_id(ROOT, issued.subject)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            async for record in platform.log("user").follow([subjects.of_run(issued.run)]):
                if record.cause == cause:
                    return record.fact
    return None


async def begun(platform: Platform, run: str, *, within: float) -> bool:
    """Wait for a conductor to begin a run that was asked for; without one it begins when there is one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            async for _ in platform.log("user").follow([filter_for(RunStarted, run)]):
                return True
    return False


async def settings_of(platform: Platform, run: str) -> RunSettings:
    """Read how a run was started, or asked for when no conductor has answered yet.

    Raises:
        Refused: there is no such run.
    """
    log = platform.log("user")
    for subject in (subjects.fact(run, "run.started"), subjects.fact(run, "directive.issued", f"{USER}.start")):
        match await log.read(subject):
            case (
                Record(fact=RunStarted(settings=settings))
                | Record(fact=DirectiveIssued(request=Start(settings=settings)))
            ):
                return settings
    near = difflib.get_close_matches(run, await listed(platform), n=1)
    meant = f", did you mean {near[0]}?" if near else ""
    raise Refused(f"there is no run {run!r} in {Path(platform.settings.home)}{meant}; `evolvent runs` lists them")


async def summarize(platform: Platform, run: str) -> Summary:
    """Fold a run as it stands now.

    Raises:
        Refused: there is no such run.
    """
    summary = await folded(platform, run)
    if summary.state == "unknown":
        await settings_of(platform, run)
        raise Refused(f"run {run} has not begun; `evolvent run {run}` carries it")
    return summary


async def folded(platform: Platform, run: str) -> Summary:
    """Fold whatever there is of a run; its state is unknown as long as it has not begun."""
    log = platform.log("user")
    summary = Summary()
    async for record in log.follow(FOLD.filters(run), until=await log.end()):
        summary = FOLD.advance(summary, record)
    return summary


async def listed(platform: Platform) -> list[str]:
    """List the ids of all runs, the newest last, also of those that no conductor has begun."""
    log = platform.log("user")
    filters = [filter_for(RunStarted), subjects.fact("*", "directive.issued", f"{USER}.start")]
    names = [record.fact.run async for record in log.follow(filters, until=await log.end())]
    return list(dict.fromkeys(names))


async def latest(platform: Platform) -> str:
    """Name the newest run.

    Raises:
        Refused: there is none.
    """
    names = await listed(platform)
    if not names:
        raise Refused(f"there is no run in {platform.settings.home}; `evolvent run TASK` makes one")
    return names[-1]
