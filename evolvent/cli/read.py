"""Reading commands: `runs`, `show`, `best`, `why`, `watch`, `tail`. JSON is the truth, tables are a rendering of it."""

import difflib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from evolvent import runs
from evolvent.cli import lines, progress
from evolvent.cli.app import (
    DEFAULT_HOME,
    FAILED,
    OK,
    Home,
    Json,
    app,
    console,
    emit,
    emit_line,
    errors,
    perform,
    settings_for,
)
from evolvent.errors import Refused
from evolvent.hosting import reading, served
from evolvent.log import Record
from evolvent.platform import Platform
from evolvent.population import Member
from evolvent.programs import write_program
from evolvent.summary import FOLD, Summary
from evolvent.why import chain
from evolvent_schemas import FACTS, DirectiveIssued, Fact, HandlingFailed, RunFinished, filter_for, subjects

WHOLE = 1 << 20
"""Columns that no row fills: a task's name, a motivation and a few numbers."""
Run = Annotated[str | None, typer.Argument(metavar="RUN", help="The newest run when not given.")]
OfRun = Annotated[str | None, typer.Option("--run", help="The newest run when not given.")]


@app.command("runs")
def list_runs(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the runs of a home."""
    settings = settings_for(home)

    async def work() -> None:
        others = served(settings)
        async with reading(settings) as platform:
            names = await runs.listed(platform)
            found = [_summary(await _summarize(platform, name), others=others) for name in names]
        if as_json:
            emit(found)
            return
        if not found:
            errors.print(f"there is no run in {home}; `evolvent run TASK` makes one")
            return
        table = _table("run", "task", "state", "closed", "failed", "best", "started")
        for row in found:
            best = f"{row['best']['score']:.10g}" if row["best"] else "-"
            counts = (str(row["rounds"]["closed"]), str(row["rounds"]["failed"]))
            table.add_row(
                row["run"], row["task"], row["state"], *counts, best, (row["started"] or "-")[:16].replace("T", " ")
            )
        _print(table)

    perform(work())


async def _summarize(platform: Platform, run: str) -> Summary:
    """Fold a run, also one that no conductor has begun."""
    summary = await runs.folded(platform, run)
    return summary if summary.settings else Summary(run=run, settings=await runs.settings_of(platform, run))


def _state(summary: Summary, *, others: bool) -> tuple[str, str]:
    """Say how a run stands and why; what nobody serves does not go on by itself."""
    if summary.state == "unknown":
        return "waiting", lines.waiting(summary.run)
    if summary.state == "running" and not others:
        return "cut off", f"go on with: evolvent run {summary.run}"
    return summary.state, summary.message


def _summary(summary: Summary, *, others: bool) -> dict[str, Any]:
    assert summary.settings is not None
    best = summary.best
    state, message = _state(summary, others=others)
    return {
        "run": summary.run,
        "task": summary.settings.task.name,
        "state": state,
        "message": message,
        "started": summary.started.isoformat() if summary.started else None,
        "rounds": {
            "closed": summary.closed,
            "failed": summary.failed,
            "open": sorted(name for name in summary.open),
            "budget": summary.settings.budget.rounds,
        },
        "candidates": {
            "measured": len(summary.measured),
            "failed": summary.failures,
            "duplicates": summary.duplicates,
        },
        "baseline": {"score": summary.baseline.score if summary.baseline else None},
        "best": {"candidate": best.candidate, "score": best.score} if best else None,
        "cost": summary.cost.model_dump(),
    }


def _member(member: Member) -> dict[str, Any]:
    return member.model_dump(mode="json", exclude={"program": {"files"}})


@app.command()
def show(
    run: Run = None,
    candidate: Annotated[
        str | None, typer.Argument(metavar="CANDIDATE", help="One candidate, with its program.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show a run with its candidates, or one candidate with its program."""
    settings = settings_for(home)

    async def work() -> None:
        if run and "." in run and candidate is None:
            raise Refused(f"{run} is no run; `evolvent show RUN {run}` shows a candidate")
        others = served(settings)
        async with reading(settings) as platform:
            summary = await runs.summarize(platform, run or await runs.latest(platform))
            if candidate is None:
                _show_run(summary, _summary(summary, others=others), as_json=as_json)
            else:
                await _show_candidate(platform, summary, candidate, as_json=as_json)

    perform(work())


def _show_run(summary: Summary, told: dict[str, Any], *, as_json: bool) -> None:
    members = sorted(summary.members.values(), key=_order)
    if as_json:
        emit({**told, "members": [_member(member) for member in members]})
        return
    counts = (
        f"{told['rounds']['closed']} of {told['rounds']['budget']} rounds closed, {told['rounds']['failed']} failed"
    )
    console.print(f"{summary.run} · {told['task']} · {told['state']} · {counts}")
    if told["message"] and told["state"] != "completed":
        console.print(told["message"])
    table = _table("candidate", "status", "score", "parents", "proposer")
    table.add_column("motivation", no_wrap=True, ratio=1)
    table.expand = console.is_terminal
    for member in members:
        score = f"{member.score:.10g}" if member.score is not None else member.failure or ""
        table.add_row(
            member.candidate, member.status, score, " ".join(member.parents), member.proposer, _flat(member.motivation)
        )
    _print(table)


def _order(member: Member) -> tuple[bool, int, int]:
    number, _, attempt = member.candidate.partition(".")
    return not number.startswith("h"), int(number.removeprefix("h")), int(attempt)


def _table(*names: str) -> Table:
    """Head columns that a narrow terminal folds and never cuts."""
    columns = (Column(name, overflow="fold") for name in names)
    return Table(*columns, box=None, pad_edge=False, collapse_padding=True)


def _print(table: Table) -> None:
    """Print a table as wide as the terminal, and a line for each row where there is none."""
    if not console.is_terminal:
        console.width = WHOLE
    console.print(table)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _find(summary: Summary, candidate: str) -> Member:
    member = summary.members.get(candidate)
    if member is None:
        known = ", ".join(sorted(summary.members)[:8])
        raise Refused(f"run {summary.run} has no candidate {candidate!r}; it has {known} …")
    return member


async def _show_candidate(platform: Platform, summary: Summary, candidate: str, *, as_json: bool) -> None:
    member = _find(summary, candidate)
    files = await platform.artifacts.files(member.program)
    analyzed = await platform.log("user").read(
        subjects.fact(summary.run, "candidate.analyzed", f"{candidate}.{_stage(summary)}")
    )
    lessons = analyzed.fact.model_dump(mode="json") if analyzed else None
    if as_json:
        emit({**_member(member), "files": files, "analysis": lessons})
        return
    result = f"{member.score:.10g}" if member.score is not None else member.failure or "not measured"
    console.print(f"{candidate} of {summary.run} · {member.status} · {result} · {member.proposer}")
    console.print(f"parents: {' '.join(member.parents) or 'none'}\n{member.motivation}")
    if lessons:
        for lesson in lessons["lessons"]:
            console.print(f"lesson: {lesson['effect']}")
    for path, text in files.items():
        console.print(f"\n── {path}\n{text}")


def _stage(summary: Summary) -> str:
    assert summary.settings is not None
    return summary.settings.task.stages[0].name


@app.command()
def best(run: Run = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Show the best candidate of a run and write its program below the home."""

    async def work() -> None:
        async with reading(settings_for(home)) as platform:
            summary = await runs.summarize(platform, run or await runs.latest(platform))
            member = summary.best
            if member is None or member.score is None or summary.settings is None:
                raise Refused(f"run {summary.run} has no measured candidate yet; `evolvent watch {summary.run}`")
            path = await write_program(platform, summary.run, member)
            files = await platform.artifacts.files(member.program)
        if as_json:
            emit({**_member(member), "run": summary.run, "path": str(path), "files": files})
            return
        objective = summary.settings.task.objective
        console.print(f"{member.candidate}  {member.score:.10g} {objective.metric}")
        console.print(lines.distance(member.score, objective))
        console.print(f"{path}\n")
        for text in files.values():
            console.print(text)

    perform(work())


@app.command()
def why(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="For example 42.0.")],
    run: OfRun = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Print the chain of causes that made a candidate, from its round to its result."""

    async def work() -> None:
        async with reading(settings_for(home)) as platform:
            name = run or await runs.latest(platform)
            summary = await runs.summarize(platform, name)
            _find(summary, candidate)
            links = chain(await platform.log("user").run(name), candidate)
        if as_json:
            emit([link.as_json() for link in links])
            return
        for link in links:
            console.print(f"{link.time:%H:%M:%S.%f}  {'  ' * link.depth}{link.type}  {link.says}")
            console.print(f"                 {'  ' * link.depth}  by {link.source}, because of {link.because}")

    perform(work())


@app.command()
def watch(run: Run = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Follow a run, a line per round and now and then one per long experiment, until it ends; as JSON, its facts."""
    settings = settings_for(home)

    async def work() -> int:
        others = served(settings)
        async with reading(settings) as platform:
            name = run or await runs.latest(platform)
            await runs.settings_of(platform, name)
            await _goes_on(platform, name, others=others)
            if as_json:
                return await _watch_json(platform, name)
            async with progress.shown(platform, name):
                return await _watch(platform, name)

    perform(work())


async def _goes_on(platform: Platform, run: str, *, others: bool) -> None:
    """Say that a run waits for a conductor.

    Raises:
        Refused: nobody serves the home, and this command would only keep others from it.
    """
    if not others and not (await runs.folded(platform, run)).ended:
        raise Refused(f"nobody serves {platform.settings.home}, so run {run} waits; go on with `evolvent run {run}`")
    if not await runs.begun(platform, run, within=runs.ANSWER_WITHIN):
        errors.print(lines.waiting(run))


async def _watch(platform: Platform, name: str) -> int:
    summary = Summary()
    filters = [*FOLD.filters(name), filter_for(HandlingFailed, name)]
    async for record in platform.log("user").follow(filters):
        summary = FOLD.advance(summary, record)
        lines.show(record, summary)
        if isinstance(record.fact, RunFinished):
            path = await write_program(platform, name, summary.best) if summary.best else None
            lines.ending(record.fact, summary, str(path) if path else None)
            return FAILED if record.fact.state == "failed" else OK
    return OK


async def _watch_json(platform: Platform, name: str) -> int:
    async for record in platform.log("user").follow([subjects.of_run(name)]):
        emit_line(_envelope(record))
        if isinstance(record.fact, RunFinished):
            return FAILED if record.fact.state == "failed" else OK
    return OK


@app.command()
def tail(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Every run when not given.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the facts to come.")] = False,
    kind: Annotated[str | None, typer.Option("--type", help="Only facts of this type, e.g. discovery.claimed.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Print the facts themselves, in log order."""

    async def work() -> None:
        _check_type(kind)
        async with reading(settings_for(home)) as platform:
            if run is not None:
                await runs.settings_of(platform, run)
            async for record in _facts(platform, run, kind, live=follow):
                if as_json:
                    emit_line(_envelope(record))
                else:
                    console.print(f"{record.time:%H:%M:%S.%f}  {record.fact.subject}  {_body(record.fact)[:160]}")

    perform(work())


def _check_type(kind: str | None) -> None:
    if kind is not None and kind not in FACTS:
        near = difflib.get_close_matches(kind, FACTS, n=1, cutoff=0.0)[0]
        raise Refused(f"no fact has the type {kind!r}, did you mean {near}? docs/facts.md lists them")


def _body(fact: Fact) -> str:
    """Render what is not said by default; what a directive asks for is a default of its class."""
    brief = not isinstance(fact, DirectiveIssued)
    return fact.model_dump_json(exclude={"type", "run"}, exclude_defaults=brief)


async def _facts(platform: Platform, run: str | None, kind: str | None, *, live: bool) -> AsyncIterator[Record[Fact]]:
    log = platform.log("user")
    until = None if live else await log.end()
    async for record in log.follow([subjects.of_run(run) if run else subjects.ALL_FACTS], until=until):
        if kind is None or record.fact.type == kind:
            yield record


def _envelope(record: Record[Fact]) -> dict[str, Any]:
    """Render a fact as a CloudEvent in structured mode."""
    return {
        "specversion": "1.0",
        "id": str(record.id),
        "source": record.source,
        "type": record.fact.type,
        "subject": record.fact.subject,
        "time": record.time.isoformat(),
        "cause": str(record.cause),
        "data": record.fact.model_dump(mode="json"),
    }
