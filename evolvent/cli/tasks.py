"""`evolvent task new` and `evolvent task check`."""

import os
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from evolvent import checks, task
from evolvent.checks import Check, Trials
from evolvent.cli.app import DEFAULT_HOME, FAILED, OK, Home, Json, app, console, emit, errors, perform
from evolvent.errors import Refused
from evolvent_schemas.values import TaskSpec

group = typer.Typer(help="Make and check tasks.", no_args_is_help=True)
app.add_typer(group, name="task")
Unsafe = Annotated[
    bool,
    typer.Option(help="Go on where no sandbox contains a candidate (tier T3).", envvar="EVOLVENT_ALLOW_UNSAFE_SANDBOX"),
]
MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


@group.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="NAME|FOLDER", help="A folder that does not exist yet.")],
    as_json: Json = False,
) -> None:
    """Lay out a small working task to edit: specification, brief, baseline, evaluator, a piece of knowledge."""

    async def work() -> None:
        written = scaffold(folder)
        if as_json:
            emit({"task": str(folder), "files": written})
            return
        console.print("\n".join(f"{folder}/{name}" for name in written))
        console.print(
            f"\nnext:\n  edit these files\n  evolvent task check {folder}\n  evolvent run {folder} --rounds 3",
        )

    perform(work())


def scaffold(folder: Path) -> list[str]:
    """Write the files of a new task and return their paths below its folder.

    Raises:
        Refused: the folder holds something already, its name is no task's, or it cannot be written.
    """
    name = _name(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is there already; name a folder that is not")
    try:
        templates = _templates()
        for path, text in templates.items():
            _write(folder / path, text.replace("NAME", name))
    except OSError as error:
        raise Refused(f"{folder} cannot be written: {error}") from error
    return list(templates)


def _name(folder: Path) -> str:
    name = folder.resolve().name
    rule = next(each.pattern for each in TaskSpec.model_fields["name"].metadata if getattr(each, "pattern", None))
    if not re.match(str(rule), name):
        raise Refused(f"{name!r} is no name for a task: lower-case letters, digits, - and _, at most 64 characters")
    return name


def _templates() -> dict[str, str]:
    with as_file(files("evolvent.cli") / "scaffold") as root:
        found = sorted(path for path in root.rglob("*") if path.suffix in {".toml", ".md", ".py"})
        return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in found}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@group.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="TASK", help="A task folder.")],
    home: Home = DEFAULT_HOME,
    allow_unsafe_sandbox: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Run the baseline, a crash, a hang, garbage and cheats for real, before anything is spent on the task."""

    async def work() -> int:
        loaded = task.load(folder)
        trials: Trials = checks.find("task")
        place = home.resolve() / "work" / f"check-{os.getpid()}"
        found = await _shown(trials(loaded, place, allow_unsafe=allow_unsafe_sandbox), errors if as_json else console)
        if as_json:
            emit({"task": loaded.spec.name, **document(found)})
        else:
            console.print(_verdict(loaded.spec.name, found))
        return OK if passed(found) else FAILED

    perform(work())


async def _shown(checks: AsyncIterator[Check], where: Console) -> list[Check]:
    found = []
    async for each in checks:
        show(each, where)
        found.append(each)
    return found


def show(found: Check, where: Console) -> None:
    """Print one check as one line, and what to do about it as another."""
    where.print(f"{MARKS[found.verdict]} {found.name:<12} {found.seen}")
    if found.mend:
        where.print(f"  {'':<12} → {found.mend}")


def _verdict(name: str, found: list[Check]) -> str:
    failed = [each.name for each in found if each.verdict == "fail"]
    return f"{name} is not ready: {', '.join(failed)}" if failed else f"{name} is ready: evolvent run takes it"


def passed(found: list[Check]) -> bool:
    return all(each.verdict != "fail" for each in found)


def document(found: list[Check]) -> dict[str, Any]:
    """Build what `--json` prints of checks."""
    return {"passed": passed(found), "checks": [asdict(each) for each in found]}
