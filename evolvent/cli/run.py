"""`evolvent run`, `start`, `serve`: begin runs and host the roles that carry them."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from evolvent import report as reports
from evolvent import runs, task, telemetry
from evolvent.cli import lines, progress
from evolvent.cli.app import (
    DEFAULT_HOME,
    FAILED,
    FRUITLESS,
    OK,
    Home,
    Json,
    app,
    console,
    emit,
    errors,
    perform,
    settings_for,
)
from evolvent.embedded import HomeTaken, embedded
from evolvent.ending import end
from evolvent.errors import EvolventError
from evolvent.hosting import Tenure, attached, carry, reading
from evolvent.models.settings import ModelSettings
from evolvent.models.wishes import Wishes, check_key
from evolvent.platform import Platform
from evolvent.programs import write_program
from evolvent.provision import ROLES
from evolvent.serve import serve as serve_roles
from evolvent.serve import stop_on_signals
from evolvent.settings import Settings
from evolvent.summary import FOLD, Summary
from evolvent_schemas import HandlingFailed, Resume, RunFinished, filter_for

Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds of the run.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed makes the same decisions (width 1, no model).")]
Width = Annotated[int | None, typer.Option(min=1, help="Rounds open at once.")]
Sampler = Annotated[str | None, typer.Option(help="How parents are chosen: random, greedy, ucb1.")]
Hours = Annotated[float | None, typer.Option(help="Wall hours after which no round opens.")]
RoundHours = Annotated[
    float | None, typer.Option(help="Hours after which an open round expires; an hour more than its seeds may take.")
]
Usd = Annotated[float | None, typer.Option(help="Money after which no round opens.")]
Tokens = Annotated[int | None, typer.Option(help="Model tokens after which no round opens.")]
Name = Annotated[str | None, typer.Option("--run", help="Id of the new run; drawn when not given.")]
Unsafe = Annotated[bool, typer.Option(help="Go on where no sandbox contains a candidate (tier T3).")]
Processes = Annotated[bool, typer.Option(help="Each role as a process of its own, restarted when it dies.")]
Proposer = Annotated[str | None, typer.Option(help="Who designs: operators, or llm (a model).")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model that designs; several are chosen between by a bandit.")
]
Lessons = Annotated[str | None, typer.Option(help="Who words the lessons: computed, or llm.")]
Judge = Annotated[bool, typer.Option("--judge", help="Have a model judge each program against the baseline.")]
EditMode = Annotated[str | None, typer.Option(help="How a model answers: edits, or rewrite.")]


def _seconds(hours: float | None) -> float | None:
    return None if hours is None else hours * 3600


def _plan(
    folder: Path, seed: int | None, budget: dict[str, Any], options: dict[str, Any], *, wishes: Wishes, here: bool
) -> runs.Plan:
    def given(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    plan = runs.Plan(task.load(folder), seed, given(budget), given(options))
    asked = wishes.options(plan.settings("0" * 64).budget, here=here)
    return replace(plan, options={**(plan.options or {}), **given(asked)})


@app.command()
def run(
    what: Annotated[str, typer.Argument(metavar="TASK|RUN", help="A task folder, or the id of an unfinished run.")],
    rounds: Rounds = None,
    seed: Seed = None,
    width: Width = None,
    sampler: Sampler = None,
    hours: Hours = None,
    round_hours: RoundHours = None,
    usd: Usd = None,
    tokens: Tokens = None,
    name: Name = None,
    home: Home = DEFAULT_HOME,
    proposer: Proposer = None,
    model: Models = None,
    lessons: Lessons = None,
    judge: Judge = False,
    edit_mode: EditMode = None,
    processes: Processes = False,
    allow_unsafe_sandbox: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Carry a search to its end on this machine, or go on with one that was cut off."""
    settings = settings_for(home, allow_unsafe_sandbox=allow_unsafe_sandbox or None)

    async def work() -> int:
        plan = None
        if (Path(what) / "task.toml").is_file() or "/" in what:
            budget = {"rounds": rounds, "hours": hours, "usd": usd, "tokens": tokens}
            wishes = Wishes(proposer, model or (), lessons, judge, edit_mode)
            options = {"width": width, "sampler": sampler, "round_seconds": _seconds(round_hours)}
            plan = _plan(Path(what), seed, budget, options, wishes=wishes, here=True)
        else:
            await _can_go_on(settings, what)
        return await _carry(settings, plan, name if plan else what, processes=processes, as_json=as_json)

    perform(work())


async def _can_go_on(settings: Settings, run: str) -> None:
    """Refuse to host a run whose models cannot be asked from here, before any role takes up its work.

    Raises:
        Refused: the key is missing, or there is no such run.
    """
    if settings.nats_url is not None or ModelSettings.load().api_key.get_secret_value():
        return
    with contextlib.suppress(HomeTaken):  # whoever serves the home has the key, or has refused already
        async with embedded(settings), attached(settings) as platform:
            check_key((await runs.settings_of(platform, run)).models)


async def _carry(settings: Settings, plan: runs.Plan | None, run: str | None, *, processes: bool, as_json: bool) -> int:
    """Host, or attach to the process that hosts this home and take over when it ends."""
    if settings.home.is_dir() or plan is not None:
        telemetry.to_file(settings.home / "logs" / "run.jsonl")
    return await carry(settings, _Search(settings, plan, run, as_json=as_json).follow, processes=processes)


class _Search:
    """One run as `evolvent run` sees it; it survives a change of host."""

    def __init__(self, settings: Settings, plan: runs.Plan | None, run: str | None, *, as_json: bool) -> None:
        self.settings, self.plan, self.run, self.as_json = settings, plan, run, as_json
        self.seen = 0
        self.summary = Summary()

    async def follow(self, tenure: Tenure) -> int:
        """Watch the run to its end, or until the roles that carry it end first."""
        platform, roles = tenure.platform, tenure.over
        if not (tenure.ours or self.as_json):
            console.print(f"another process serves {self.settings.home}; attached to it")
        await self._begin(platform)
        watching = asyncio.create_task(self._watch(platform))
        stop = asyncio.Event()
        stop_on_signals(stop)
        stopping = asyncio.create_task(stop.wait())
        try:
            first: set[asyncio.Future[Any]] = {watching, roles, stopping}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                return await self._end(platform, watching.result())
            if roles.done():
                roles.result()
            errors.print(f"\nstopped; nothing is lost, go on with: evolvent run {self.run}")
            return 130
        finally:
            await end(watching, stopping)

    async def _begin(self, platform: Platform) -> None:
        if self.plan is not None:
            self.run = await runs.start(platform, self.plan, self.run)
            self.plan = None
            return
        assert self.run is not None
        await runs.settings_of(platform, self.run)
        if self.seen == 0 and (await runs.folded(platform, self.run)).state == "paused":
            await runs.issue(platform, self.run, Resume())

    async def _watch(self, platform: Platform) -> RunFinished:
        """Print each fact once, also across a change of host, and how long experiments go.

        Raises:
            EvolventError: the conductor gave up a fact, so the run cannot end by itself.
        """
        assert self.run is not None
        async with contextlib.nullcontext() if self.as_json else progress.shown(platform, self.run):
            return await self._read(platform, self.run)

    async def _read(self, platform: Platform, run: str) -> RunFinished:
        filters = [*FOLD.filters(run), filter_for(HandlingFailed, run)]
        async for record in platform.log("user").follow(filters, start=self.seen + 1):
            self.seen = record.sequence
            self.summary = FOLD.advance(self.summary, record)
            if not self.as_json:
                lines.show(record, self.summary)
            if isinstance(record.fact, RunFinished):
                return record.fact
            if isinstance(record.fact, HandlingFailed) and record.fact.role == "conductor":
                raise EvolventError(f"the conductor could not handle {record.fact.handled}: {record.fact.error}")
        raise EvolventError(f"the log of run {run} ended")

    async def _end(self, platform: Platform, finished: RunFinished) -> int:
        path = None
        if self.summary.best is not None:
            path = await write_program(platform, finished.run, self.summary.best)
        page = await self._report(platform, finished.run)
        if self.as_json:
            emit(outcome(finished, self.summary, str(path) if path else None, page))
        else:
            lines.ending(finished, self.summary, str(path) if path else None, page)
        if finished.state == "failed":
            return FAILED
        return FRUITLESS if finished.state == "budget" and not _valid(self.summary) else OK

    async def _report(self, platform: Platform, run: str) -> str | None:
        """Write the report; a run that ended well is not made a failure by a page that cannot be written."""
        try:
            told = await reports.build(platform, run)
            return str(reports.write(told, reports.place(self.settings.home, run)))
        except EvolventError as error:
            errors.print(f"there is no report: {error}; try again with: evolvent report {run}")
            return None


def _valid(summary: Summary) -> bool:
    """Tell whether any candidate beside the baseline was measured."""
    return len(summary.measured) > 1


def outcome(finished: RunFinished, summary: Summary, path: str | None, report: str | None) -> dict[str, Any]:
    """Build the one object that `evolvent run --json` ends with."""
    best, baseline = finished.best, summary.baseline
    assert summary.started is not None
    assert summary.last is not None
    cost = {"usd": finished.cost.usd, "tokens": finished.cost.tokens}
    return {
        "run": finished.run,
        "state": finished.state,
        "message": finished.message,
        "rounds": {"closed": finished.rounds_closed, "failed": finished.rounds_failed},
        "baseline": {"score": baseline.score if baseline else None},
        "best": {"candidate": best.candidate, "score": best.score, "path": path} if best else None,
        "cost": {**cost, "wall_seconds": (summary.last - summary.started).total_seconds()},
        "report": report,
    }


@app.command()
def start(
    folder: Annotated[Path, typer.Argument(metavar="TASK", help="A task folder.")],
    rounds: Rounds = None,
    seed: Seed = None,
    width: Width = None,
    sampler: Sampler = None,
    hours: Hours = None,
    round_hours: RoundHours = None,
    usd: Usd = None,
    tokens: Tokens = None,
    name: Name = None,
    home: Home = DEFAULT_HOME,
    proposer: Proposer = None,
    model: Models = None,
    lessons: Lessons = None,
    judge: Judge = False,
    edit_mode: EditMode = None,
    as_json: Json = False,
) -> None:
    """Ask services that run elsewhere for a new run, print its id and leave."""

    async def work() -> None:
        budget = {"rounds": rounds, "hours": hours, "usd": usd, "tokens": tokens}
        wishes = Wishes(proposer, model or (), lessons, judge, edit_mode)
        options = {"width": width, "sampler": sampler, "round_seconds": _seconds(round_hours)}
        plan = _plan(folder, seed, budget, options, wishes=wishes, here=False)
        async with reading(settings_for(home)) as platform:
            started = await runs.start(platform, plan, name)
            begun = await runs.begun(platform, started, within=runs.ANSWER_WITHIN)
        if as_json:
            emit({"run": started, "begun": begun})
        else:
            following = f"watch it with: evolvent watch {started}" if begun else lines.waiting(started)
            console.print(f"{started}\n{following}")

    perform(work())


@app.command()
def serve(
    roles: Annotated[list[str], typer.Argument(metavar="ROLE…", help=f"Roles to host: {', '.join(ROLES)}, or all.")],
    home: Home = DEFAULT_HOME,
    allow_unsafe_sandbox: Unsafe = False,
) -> None:
    """Host roles against a server that runs; SIGTERM lets them finish what is in work."""
    telemetry.to_stderr()
    settings = settings_for(home, allow_unsafe_sandbox=allow_unsafe_sandbox or None)
    chosen = list(ROLES) if roles == ["all"] else roles

    async def work() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await serve_roles(settings, chosen, stop)

    perform(work())
