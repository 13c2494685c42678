"""A run told for people: one self-contained page, and the same as JSON."""

from pathlib import Path

import orjson

from evolvent.errors import Refused
from evolvent.platform import Platform
from evolvent.report.page import render
from evolvent.report.story import summary_of, tell
from evolvent.report.values import Report

__all__ = ["Report", "build", "place", "render", "tell", "write"]


async def build(platform: Platform, run: str) -> Report:
    """Read a run's log and tell it.

    Raises:
        Refused: there is no such run.
    """
    records = await platform.log("user").run(run)
    if not records:
        raise Refused(f"there is no run {run!r} in {platform.settings.home}; `evolvent runs` lists them")
    best = summary_of(records).best
    return tell(records, await platform.artifacts.files(best.program) if best else None)


def place(home: Path, run: str) -> Path:
    """Name the page of a run; the JSON stands beside it under the same name."""
    return home / "runs" / run / "report.html"


def write(report: Report, page: Path) -> Path:
    """Write the page, and the JSON beside it with the suffix `.json`; returns the page's path.

    Raises:
        Refused: it cannot be written there.
    """
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, content in ((page.with_suffix(".json"), as_json(report)), (page, render(report).encode())):
            part = path.with_name(path.name + ".part")
            part.write_bytes(content)
            part.replace(path)
    except OSError as error:
        raise Refused(f"the report cannot be written to {page}: {error}; name another place with --output") from error
    return page


def as_json(report: Report) -> bytes:
    return orjson.dumps(report.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n"
