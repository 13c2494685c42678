"""Progress of long experiments on the terminal: a line now and then, while a run is watched."""

import contextlib
from collections.abc import AsyncIterator

import orjson
from nats.aio.msg import Msg

from evolvent.cli.app import console
from evolvent.clock import monotonic
from evolvent.platform import Platform
from evolvent_schemas import subjects

EVERY = 10.0
"""Seconds between two lines of one experiment; one that ends sooner shows none."""
_OURS = ("wall_seconds", "cpu_seconds", "memory_mb")
"""Measured by us; the other numbers are the program's own words."""


@contextlib.asynccontextmanager
async def shown(platform: Platform, run: str) -> AsyncIterator[None]:
    """Print the progress of a run's experiments for as long as the block lasts."""
    last: dict[str, float] = {}

    async def show(message: Msg) -> None:
        experiment = message.subject.split(".", 2)[2]
        numbers = _numbers(message.data)
        if numbers.get("wall_seconds", 0.0) >= EVERY and monotonic() - last.get(experiment, -EVERY) >= EVERY:
            last[experiment] = monotonic()
            console.print(line(experiment, numbers))

    subscription = await platform.wire.client.subscribe(subjects.progress(run), cb=show)
    try:
        yield
    finally:
        await subscription.unsubscribe()


def line(experiment: str, numbers: dict[str, float]) -> str:
    """Say how an experiment, `<candidate>.<stage>.<seed>.<try>`, goes."""
    candidate, stage, seed, _ = experiment.rsplit(".", 3)
    said = " · ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items() if name not in _OURS)
    cost = f"{numbers.get('wall_seconds', 0):.0f} s · {numbers.get('memory_mb', 0):.0f} MiB"
    return f"  … {candidate} {stage}, seed {seed}: {cost}" + (f" · {said}" if said else "")


def _numbers(data: bytes) -> dict[str, float]:
    """Read what was told; whatever else came is shown to nobody."""
    try:
        found = orjson.loads(data)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
