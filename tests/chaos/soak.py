"""The whole matrix of kills: `python -m tests.chaos.soak [SEED…]` writes its table to tests/chaos/soak-result.md."""

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.ring import ACK_WAIT, HAND_OVERS, ROUNDS, TARGETS, WIDTH, Cell, carry, matrix, ring

RESULT = Path(__file__).parent / "soak-result.md"


@dataclass(frozen=True)
class Outcome:
    """What became of one cell."""

    cell: Cell
    seconds: float
    fault: str = ""


async def soak(seeds: list[int], home: Path) -> list[Outcome]:
    """Go through every cell on one set of processes, so that each also starts from what the last one left."""
    outcomes = []
    async with ring(home) as running:
        for cell in matrix(seeds):
            try:
                outcome = Outcome(cell, await carry(running, cell))
            except (AssertionError, TimeoutError) as error:
                outcome = Outcome(cell, 0.0, f"{type(error).__name__}: {error}")
            outcomes.append(outcome)
            print(f"{cell}: {outcome.fault or f'{outcome.seconds:.1f} s'}", flush=True)
    return outcomes


def report(outcomes: list[Outcome], seeds: list[int], seconds: float) -> str:
    faults = [outcome for outcome in outcomes if outcome.fault]
    run = (
        f"`python -m tests.chaos.soak {' '.join(map(str, seeds))}` on {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}: {len(outcomes)} cells in {seconds / 60:.0f} minutes, "
        f"{len(faults)} with a fault."
    )
    what = (
        f"Each cell is a run of {ROUNDS} rounds, {WIDTH} at once, with every role a process; the target is killed with "
        f"SIGKILL when the fact appears on the log (which of them, and how many milliseconds after, is drawn). "
        f"`EVOLVENT_ACK_WAIT={ACK_WAIT}`. Checked after each: every round opened and closed once, every subject once, "
        "no handling failed, no dead letter, no second try of an experiment on the log, nothing left of the killed "
        "process tree after a second, `audit replay` reproduces every decision. "
        "A number is the median of seconds to the end of the run."
    )
    lines = [
        "# Kill -9 at every hand-over of the ring",
        "",
        run,
        "",
        what,
        "",
        "| killed at | " + " | ".join(TARGETS) + " |",
        "|---" * (len(TARGETS) + 1) + "|",
    ]
    for moment in HAND_OVERS:
        lines += [f"| {moment} | " + " | ".join(_shown(outcomes, target, moment) for target in TARGETS) + " |"]
    lines += ["", *(f"- {outcome.cell}: {outcome.fault}" for outcome in faults)]
    return "\n".join(lines).rstrip() + "\n"


def _shown(outcomes: list[Outcome], target: str, moment: str) -> str:
    own = [outcome for outcome in outcomes if (outcome.cell.target, outcome.cell.moment) == (target, moment)]
    good = [outcome.seconds for outcome in own if not outcome.fault]
    return f"{statistics.median(good):.1f} ({len(good)}/{len(own)})" if good else f"- (0/{len(own)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[1, 2], metavar="SEED")
    seeds = parser.parse_args().seeds
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = asyncio.run(soak(seeds, Path(folder) / "home"))
    RESULT.write_text(report(outcomes, seeds, time.monotonic() - began))
    sys.exit(any(outcome.fault for outcome in outcomes))


if __name__ == "__main__":
    main()
