"""How a long experiment goes: what its program prints of itself, and how that reaches whoever watches."""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import nats.errors

from evolvent.wire import Wire
from evolvent_engineer.backend import Report
from evolvent_schemas import subjects
from evolvent_schemas.values import canonical

_MOST = 16
_LONGEST_NAME = 40


def reported(output: str) -> dict[str, float]:
    """Read the newest line of a program's output that is a JSON object with a `step`.

    For example `{"step": 1200, "loss": 2.31, "tokens_per_second": 41000, "gpu_memory_mb": 17000}`. Its finite
    numbers, at most 16 of them, and nothing where there is no such line. The program says what it likes: progress is
    advice to people and enters no result.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{") and (found := _numbers(line)):
            return found
    return {}


def _numbers(line: str) -> dict[str, float]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or "step" not in content:
        return {}
    return dict([pair for pair in content.items() if _plain(*pair)][:_MOST])


def _plain(name: str, value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and len(name) <= _LONGEST_NAME and name.isprintable() and _finite(value)


def _finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond every float
        return False


@dataclass(frozen=True)
class Progress:
    """Publishes progress; a message that is lost is made good by the next."""

    wire: Wire

    def of(self, run: str, experiment: str) -> Report:
        """Make the reporter of one experiment, `<candidate>.<stage>.<seed>.<try>`."""

        async def publish(numbers: Mapping[str, float]) -> None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.wire.client.publish(subjects.progress(run, experiment), canonical(dict(numbers)))

        return publish
