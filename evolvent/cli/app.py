"""The application: options every command shares, and how errors become exit codes."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from evolvent import telemetry
from evolvent.errors import EvolventError, Refused, Unreachable
from evolvent.settings import Settings

OK, FAILED, USAGE, UNREACHABLE, FRUITLESS = 0, 1, 2, 3, 4
"""Exit codes: fine; the run failed; wrong usage; no server; a budget ended the run without a valid candidate."""

app = typer.Typer(
    name="evolvent",
    help="Autonomous research on an event log: design, run, analyze, learn.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Home = Annotated[
    Path, typer.Option("--home", help="Where the log and everything else is kept.", envvar="EVOLVENT_HOME")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_HOME = Path(".evolvent")


def settings_for(home: Path, **changes: Any) -> Settings:
    return Settings(home=home, **{name: value for name, value in changes.items() if value is not None})


def perform(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command to its end and leave with its exit code; an error of ours is one line."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    except EvolventError as error:
        errors.print(f"[red]error[/red] {type(error).__name__}: {error}", markup=True)
        code = UNREACHABLE if isinstance(error, Unreachable) else USAGE if isinstance(error, Refused) else FAILED
    raise typer.Exit(code or OK)


def emit(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.flush()


def emit_line(value: Any) -> None:
    """Print one JSON document as one line."""
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.flush()


def main() -> None:
    """Enter the command line."""
    from evolvent.cli import audit, deploy, doctor, read, report, run, speak, tasks  # noqa: F401 - each registers its commands

    telemetry.only_errors()
    app()
