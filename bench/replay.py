"""Facts per second from the log to a folded state, against the least that any client has to do.

Compares, over one stored run: reading the messages and nothing else; reading and `model_validate_json`; reading with
the envelope and the gap check (`Log.follow`); and that with the researcher's fold on top.
"""

import argparse
import asyncio
import json
import platform as machine
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from evolvent import telemetry
from evolvent.embedded import embedded
from evolvent.follow import follow
from evolvent.log import STREAM
from evolvent.platform import Platform, open_platform
from evolvent.settings import Settings
from evolvent_researcher.studio import FOLD
from evolvent_schemas import (
    FACTS,
    CandidateAnalyzed,
    CandidateProposed,
    CandidateScreened,
    ContextSampled,
    Fact,
    RoundClosed,
    RoundOpened,
    RunStarted,
    subjects,
)
from evolvent_schemas.values import Choice, Grant, Objective, Program, ProgramSpec, RunSettings, TaskSpec

RUN = "bench"
LINES = "\n".join(f"    x{n} = {n} * 3.14159" for n in range(30))
"""About 800 bytes of program, so that a proposal is about a kilobyte."""


def started() -> RunStarted:
    spec = TaskSpec(
        name="bench", title="bench", objective=Objective(metric="value"), program=ProgramSpec(functions=("value",))
    )
    return RunStarted(run=RUN, settings=RunSettings(task=spec, bundle="0" * 64, seed=1), user="bench")


def facts(number: int) -> list[Fact]:
    """Make the facts of one round that the researcher folds."""
    name, candidate = str(number), f"{number}.0"
    program = Program.of({"program.py": f"def value():\n{LINES}\n    return {number}\n"})
    return [
        RoundOpened(run=RUN, round=name, grant=Grant(attempts=3, compute_seconds=1)),
        ContextSampled(
            run=RUN,
            round=name,
            parents=(Choice(candidate="0.0", weight=1.0),),
            sampler="ucb1",
            seed=number,
            pool=number,
        ),
        CandidateProposed(run=RUN, candidate=candidate, program=program, proposer="bench", motivation="one more"),
        CandidateScreened(run=RUN, candidate=candidate, verdict="new", fingerprint="0" * 64),
        CandidateAnalyzed(
            run=RUN, candidate=candidate, stage="explore", outcome="measured", score=number, fitness=number, seeds=1
        ),
        RoundClosed(run=RUN, round=name, outcome="completed", candidate=candidate, score=number),
    ]


async def fill(platform: Platform, rounds: int) -> int:
    log = platform.log("bench")
    await log.append(started())
    for first in range(0, rounds, 40):
        batch = [fact for number in range(first, min(first + 40, rounds)) for fact in facts(number)]
        for part in range(6):  # the order within a round is that of the ring
            await asyncio.gather(*(log.append(fact) for fact in batch[part::6]))
    return await log.end()


async def only_read(platform: Platform, end: int) -> None:
    async for _ in follow(platform.wire, STREAM, [subjects.of_run(RUN)], until=end):
        pass


async def read_and_validate(platform: Platform, end: int) -> None:
    async for message, _ in follow(platform.wire, STREAM, [subjects.of_run(RUN)], until=end):
        FACTS[subjects.parse(message.subject).type].model_validate_json(message.data)


async def read_facts(platform: Platform, end: int) -> None:
    async for _ in platform.log("bench").follow([subjects.of_run(RUN)], until=end):
        pass


async def fold_state(platform: Platform, end: int) -> None:
    state = FOLD.state()
    async for record in platform.log("bench").follow(FOLD.filters(RUN), until=end):
        state = FOLD.advance(state, record)
    assert len(state.members) > 0


WAYS: dict[str, Callable[[Platform, int], Awaitable[None]]] = {
    "read": only_read,
    "read + model_validate_json": read_and_validate,
    "facts with envelope": read_facts,
    "folded state": fold_state,
}


async def measure(rounds: int, repeats: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home")
        telemetry.to_file(settings.home / "logs" / "bench.jsonl")
        async with embedded(settings), open_platform(settings, "bench") as platform:
            end = await fill(platform, rounds)
            ways = {name: await _timed(way, platform, end, repeats) for name, way in WAYS.items()}
            return {"facts": end, "ways": ways}


async def _timed(way: Callable[[Platform, int], Awaitable[None]], platform: Platform, end: int, repeats: int) -> object:
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        await way(platform, end)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "facts_per_second": end / statistics.median(walls),
        "spread": [end / max(walls), end / min(walls)],
        "cpu_us_per_fact": 1e6 * statistics.median(cpus) / end,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under 60 s: fewer facts")
    arguments = parser.parse_args()
    rounds, repeats = (1000, 3) if arguments.quick else (8000, 5)
    result = asyncio.run(measure(rounds, repeats)) | {"machine": f"{machine.machine()} {machine.system()}"}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    ways: dict = result["ways"]
    least = ways["read + model_validate_json"]["cpu_us_per_fact"]
    print(f"{result['facts']} facts on {result['machine']}")
    for name, found in ways.items():
        low, high = found["spread"]
        pace = f"{found['facts_per_second']:>9,.0f} facts/s ({low:,.0f} to {high:,.0f})"
        cost = found["cpu_us_per_fact"]
        print(f"{name:<28} {pace}, {cost:.1f} us CPU, {cost / least:.2f} times read + validate")


if __name__ == "__main__":
    main()
