"""What a check found, and where the checks live that only a service can make."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol

from evolvent.errors import Refused
from evolvent.task import Task

GROUP = "evolvent.checks"
Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried or looked at."""

    name: str
    verdict: Verdict
    seen: str
    mend: str = ""
    """What to do about it; empty when there is nothing to do."""
    measured: dict[str, float] = field(default_factory=dict)


class Trials(Protocol):
    """Entry point `task`: run a task's baseline and programs that misbehave, one check for each."""

    def __call__(self, task: Task, work: Path, *, allow_unsafe: bool) -> AsyncIterator[Check]:
        """Yield each check as soon as its program has ended.

        Raises:
            Refused: nothing contains a program here, and that was not allowed.
        """
        ...


class Look(Protocol):
    """Entry point `sandbox`: look at this machine once."""

    def __call__(self, *, allow_unsafe: bool) -> Check: ...


def find(name: str) -> Any:
    """Find a check by its entry point.

    Raises:
        Refused: nothing installed brings it.
    """
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()
    raise Refused(f"nothing installed brings the check {name!r}; install evolvent again with its services")
