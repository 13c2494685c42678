"""Write a candidate's program where a person can open it."""

from pathlib import Path

from evolvent.errors import Refused
from evolvent.platform import Platform
from evolvent.population import Member


async def write_program(platform: Platform, run: str, member: Member) -> Path:
    """Lay the files of a candidate out below the home and return its folder, or its file when there is only one.

    Raises:
        Refused: a path of the program leads out of its folder.
    """
    folder = (platform.settings.home / "runs" / run / member.candidate).resolve()
    files = await platform.artifacts.files(member.program)
    for name, text in files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise Refused(f"candidate {member.candidate} holds the path {name!r}, which leads out of its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shown = folder / next(iter(files)) if len(files) == 1 else folder
    return shown.relative_to(Path.cwd()) if shown.is_relative_to(Path.cwd()) else shown
