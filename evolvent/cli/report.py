"""`evolvent report`: a run as one page for people and as JSON for scripts."""

from pathlib import Path
from typing import Annotated

import typer

from evolvent import report as reports
from evolvent import runs
from evolvent.cli.app import DEFAULT_HOME, Home, Json, app, console, emit, perform, settings_for
from evolvent.hosting import reading

Output = Annotated[
    Path | None,
    typer.Option(help="Where the page goes, a file or a folder; report.json stands beside it. Else in the home."),
]


@app.command()
def report(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The newest run when not given.")] = None,
    output: Output = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Write one self-contained page about a run, and the same as JSON."""

    async def work() -> None:
        async with reading(settings_for(home)) as platform:
            name = run or await runs.latest(platform)
            told = await reports.build(platform, name)
        page = reports.write(told, _page(output) or reports.place(home, name))
        if as_json:
            emit(told.model_dump(mode="json"))
        else:
            console.print(f"{page}\n{page.with_suffix('.json')}")

    perform(work())


def _page(output: Path | None) -> Path | None:
    """Name the page: a folder gets `report.html`, and a file named for the JSON means the page beside it."""
    if output is None:
        return None
    return output / "report.html" if output.is_dir() else output.with_suffix(".html")
