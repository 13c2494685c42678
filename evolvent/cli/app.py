"""The application: options every command shares, and how errors become exit codes."""

import asyncio
import sys
import unicodedata
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

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

_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


class Terminal(Console):
    """Prints what programs and models said as it stands: nothing in it is markup, and nothing commands the terminal."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        plain = "".join("\N{REPLACEMENT CHARACTER}" if _commands(each) else each for each in text)
        return super().render_str(plain, **options)


def _commands(character: str) -> bool:
    """Whether it is a control character but a line's end or a tab, half a character, or turns the direction of text."""
    if unicodedata.category(character) in {"Cc", "Cs"}:
        return character not in "\n\t"
    return unicodedata.bidirectional(character) in _TURNS


console, errors = Terminal(), Terminal(stderr=True)

Home = Annotated[
    Path, typer.Option("--home", help="Where the log and everything else is kept.", envvar="EVOLVENT_HOME")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_HOME = Path(".evolvent")


def _print_version(asked: bool) -> None:
    if asked:
        console.print(f"evolvent {version('evolvent')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take what stands before a command."""


def settings_for(home: Path, **changes: Any) -> Settings:
    return Settings(home=home, **{name: value for name, value in changes.items() if value is not None})


def perform(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command to its end and leave with its exit code; an error of ours is one line."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    except EvolventError as error:
        _name(error)
        code = UNREACHABLE if isinstance(error, Unreachable) else USAGE if isinstance(error, Refused) else FAILED
    except TimeoutError as error:
        _name(Unreachable(f"the server does not answer: {error}; see its log, and `evolvent doctor`"))
        code = UNREACHABLE
    raise typer.Exit(code or OK)


def _name(error: EvolventError) -> None:
    errors.print("error", style="red", end=" ")
    errors.print(f"{type(error).__name__}: {error}")


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
