"""Speaking to a run: `pause`, `resume`, `halt`, `steer`, `submit`. Each is a directive that the conductor answers."""

from pathlib import Path
from typing import Annotated

import typer

from evolvent import runs
from evolvent.cli.app import DEFAULT_HOME, OK, Home, Json, app, console, emit, perform, settings_for
from evolvent.errors import Refused
from evolvent.hosting import reading
from evolvent.platform import Platform
from evolvent_schemas import (
    DirectiveRefused,
    Halt,
    Pause,
    Request,
    Resume,
    Steer,
    Submit,
)
from evolvent_schemas.values import Program

Run = Annotated[str, typer.Argument(metavar="RUN")]
Reason = Annotated[str, typer.Option(help="Why; it goes on the log.")]


@app.command()
def pause(run: Run, reason: Reason = "", home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Open no new round; open rounds go on."""
    perform(_say(home, run, Pause(reason=reason), as_json=as_json))


@app.command()
def resume(run: Run, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Open the rounds held back since the pause."""
    perform(_say(home, run, Resume(), as_json=as_json))


@app.command()
def halt(run: Run, reason: Reason = "", home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """End a run now; what is at work on it stops."""
    perform(_say(home, run, Halt(reason=reason), as_json=as_json))


@app.command()
def steer(
    run: Run,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the designers are to mind from now on.")],
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Tell the designers something for all rounds to come."""
    perform(_say(home, run, Steer(text=text), as_json=as_json))


@app.command()
def submit(
    run: Run,
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="A file, or a folder of files.")],
    note: Annotated[str, typer.Option(help="What it is about.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Have a program of your own measured in a round of its own."""

    async def work() -> int:
        async with reading(settings_for(home)) as platform:
            settings = await runs.settings_of(platform, run)
            files = _files(program, settings.task.program.entry)
            value = Program.of(files)
            await platform.artifacts.put_program(value, files)
            return await _ask(platform, run, Submit(program=value, note=note), as_json=as_json)

    perform(work())


def _files(path: Path, entry: str) -> dict[str, str]:
    if path.is_file():
        return {entry: path.read_text()}
    if not path.is_dir():
        raise Refused(f"there is no file or folder {path}")
    return {str(found.relative_to(path)): found.read_text() for found in sorted(path.rglob("*")) if found.is_file()}


async def _say(home: Path, run: str, request: Request, *, as_json: bool) -> int:
    async with reading(settings_for(home)) as platform:
        await runs.settings_of(platform, run)
        return await _ask(platform, run, request, as_json=as_json)


async def _ask(platform: Platform, run: str, request: Request, *, as_json: bool) -> int:
    """Issue a directive and wait a moment for what the conductor makes of it."""
    summary = await runs.folded(platform, run)
    if summary.ended:
        raise Refused(f"run {run} is {summary.state}: {summary.message}")
    issued = await runs.issue(platform, run, request)
    answer = await runs.answer(platform, issued, within=runs.ANSWER_WITHIN)
    if isinstance(answer, DirectiveRefused):
        raise Refused(answer.reason)
    held = answer is None and summary.state == "paused" and isinstance(request, Submit)
    if as_json:
        emit({"run": run, "directive": issued.directive, "answer": answer.type if answer else None, "held": held})
    elif answer is not None:
        console.print(f"{answer.type} on {run}")
    elif held:
        console.print(f"held until the run is resumed: evolvent resume {run}")
    else:
        console.print(f"no conductor is at work; done when `evolvent run {run}` goes on")
    return OK
