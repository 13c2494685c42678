"""`evolvent audit replay`: check every decision of a run against the log."""

from dataclasses import asdict
from typing import Annotated

import typer

from evolvent import audit, runs
from evolvent.cli.app import DEFAULT_HOME, FAILED, OK, Home, Json, app, console, emit, perform, settings_for
from evolvent.hosting import reading
from evolvent.provision import ROLES

group = typer.Typer(help="Check a run against its log.", no_args_is_help=True)
app.add_typer(group, name="audit")


@group.callback()
def _group() -> None:
    """Check a run against its log."""


@group.command()
def replay(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The newest run when not given.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Make every decision again from the log alone and name each that comes out differently."""

    async def work() -> int:
        async with reading(settings_for(home)) as platform:
            name = run or await runs.latest(platform)
            await runs.settings_of(platform, name)
            found = await audit.replay(platform, name, ROLES)
        if as_json:
            emit(asdict(found) | {"reproduced": found.reproduced})
        else:
            _print(found)
        return OK if found.reproduced else FAILED

    perform(work())


def _print(found: audit.Audit) -> None:
    console.print(
        f"{found.run}: {found.facts} facts, {found.decisions} decisions reproduced byte for byte, "
        f"{found.effects} recorded effects and {found.observations} observations taken as they stand",
    )
    for finding in found.findings:
        console.print(f"✗ {finding.role} {finding.verdict}: {finding.subject or finding.cause}")
        console.print(f"    cause {finding.cause} ({finding.cause_id})\n    {finding.detail}")
    if found.findings:
        console.print(f"{len(found.findings)} decisions do not reproduce")
