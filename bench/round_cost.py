"""What a round costs when nothing in it takes time: the ring alone, and with a forked evaluation.

Hosts every role in this process on a real nats-server, with a proposer that writes a two-line program at once and an
evaluator that either answers at once or really forks. Compares the last hundred rounds with the first hundred, width 1
with width 8, and all of it with OpenEvolve from PyPI (in its own venv, with a stub model server), where that can be
installed.
"""

import argparse
import asyncio
import contextlib
import json
import platform as machine
import resource
import statistics
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openevolve_cost

from evolvent import runs, task, telemetry
from evolvent.embedded import embedded
from evolvent.platform import Platform, open_platform
from evolvent.service import Runner, Service
from evolvent.settings import Settings
from evolvent_analyzer import service as analyzer
from evolvent_cognition import service as cognition
from evolvent_conductor import service as conductor
from evolvent_engineer import service as engineer
from evolvent_engineer.backend import Completed, Experiment, Outcome
from evolvent_engineer.handlers import Engineer
from evolvent_researcher import service as researcher
from evolvent_schemas import CandidateProposed, KnowledgeRetrieved, RoundClosed, RunFinished, filter_for
from evolvent_schemas.values import Program, SandboxTier

TASK = Path(__file__).parent / "tasks" / "instant"


class Instant:
    """A backend that answers at once."""

    tier: SandboxTier = "T3"

    async def start(self) -> None:
        """Have nothing to make ready."""

    async def evaluate(self, experiment: Experiment) -> Outcome:
        score = float(len(experiment.files["program.py"]))
        return Completed(score, {"value": score}, 0.0, 0.0, 0.0, "")

    async def close(self) -> None:
        """Have nothing to close."""


async def propose_at_once(cause: Any, studio: Any, _effects: Any) -> list[CandidateProposed]:
    number = cause.fact.round
    program = Program.of({"program.py": f"def value():\n    return {int(number) + 1000}\n"})
    parents = studio.desks[number].parents
    return [
        CandidateProposed(
            run=cause.fact.run,
            candidate=f"{number}.0",
            program=program,
            parents=parents,
            proposer="instant",
            motivation=f"number {number}",
        )
    ]


def services(platform: Platform, *, forking: bool) -> list[Service[Any]]:
    found = [make(platform) for make in (conductor, cognition, analyzer)]
    plain = researcher(platform)
    found.append(Service(plain.role, plain.fold, {**plain.handlers, KnowledgeRetrieved: propose_at_once}))
    real = engineer(platform)
    if forking:
        return [*found, real]
    handlers = Engineer(Instant(), "instant", platform.settings.home / "work").handlers
    return [*found, Service(real.role, real.fold, handlers, concurrency=8)]


@contextlib.asynccontextmanager
async def ring(home: Path, *, forking: bool) -> AsyncIterator[Platform]:
    settings = Settings(home=home, allow_unsafe_sandbox=True)
    async with embedded(settings), contextlib.AsyncExitStack() as stack:
        platform = await stack.enter_async_context(open_platform(settings, "ring"))
        runners = [Runner(platform, service) for service in services(platform, forking=forking)]
        working = [asyncio.create_task(runner.run()) for runner in runners]
        yield await stack.enter_async_context(open_platform(settings, "bench"))
        for runner in runners:
            runner.stop()
        await asyncio.gather(*working)


@dataclass
class Timing:
    """Seconds per round over a run."""

    width: int
    forking: bool
    closed: list[float]
    """When each round closed, by the log's clock."""
    cpu: list[float]
    """CPU seconds of this process by then."""

    def as_json(self) -> dict[str, Any]:
        steps = [after - before for before, after in zip(self.closed, self.closed[1:], strict=False)]
        first, last = _pace(self.closed[:101]), _pace(self.closed[-101:])
        cpu_first, cpu_last = _pace(self.cpu[:101]), _pace(self.cpu[-101:])
        return {
            "width": self.width,
            "forking": self.forking,
            "rounds": len(self.closed),
            "ms_per_round": 1000 * _pace(self.closed),
            "ms_per_round_p10_p90": [1000 * step for step in (_quantile(steps, 0.1), _quantile(steps, 0.9))],
            "first_hundred_ms": 1000 * first,
            "last_hundred_ms": 1000 * last,
            "last_over_first": last / first,
            "cpu_ms_per_round": 1000 * _pace(self.cpu),
            "cpu_last_over_first": cpu_last / cpu_first,
        }


def _pace(closed: list[float]) -> float:
    return (closed[-1] - closed[0]) / (len(closed) - 1)


def _quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100)[int(share * 100) - 1]


async def measure(rounds: int, width: int, *, forking: bool) -> Timing:
    """Time one run; the clock of the log says when each round closed."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        telemetry.to_file(home / "logs" / "bench.jsonl")
        async with ring(home, forking=forking) as platform:
            plan = runs.Plan(task.load(TASK), 1, {"rounds": rounds}, {"width": width})
            name = await runs.start(platform, plan)
            filters = [filter_for(RoundClosed, name), filter_for(RunFinished, name)]
            closed, cpu = [], []
            async for record in platform.log("bench").follow(filters):
                if isinstance(record.fact, RunFinished):
                    break
                if record.fact.round != "h0":
                    assert record.fact.outcome == "completed", record.fact
                    closed.append(record.time.timestamp())
                    cpu.append(_cpu())
            return Timing(width, forking, closed, cpu)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under 60 s: fewer rounds, no peer")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind; the middle one is told")
    arguments = parser.parse_args()
    rounds, repeats = (300, 1) if arguments.quick else (arguments.rounds, arguments.repeats)
    found = []
    for width, forking in ((1, False), (8, False), (1, True), (8, True)):
        timing = _middle([asyncio.run(measure(rounds, width, forking=forking)).as_json() for _ in range(repeats)])
        found.append(timing)
        if not arguments.json:
            print(_line(timing), flush=True)
    peer = None if arguments.quick else openevolve_cost.measure(min(rounds, 500))
    result = {"machine": f"{machine.machine()} {machine.system()}", "ring": found, "openevolve": peer}
    if arguments.json:
        print(json.dumps(result, indent=2))
    elif peer is not None:
        cost = peer["ms_per_iteration"]
        ratio = cost / found[2]["ms_per_round"]
        print(f"OpenEvolve {peer['version']}: {cost:.1f} ms per iteration, {ratio:.1f} times a forked round at width 1")


def _middle(timings: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell the run whose growth is in the middle, with the growth of all: one hundred rounds last about a second, and
    a shared machine has slow seconds."""
    ranked = sorted(timings, key=lambda timing: timing["cpu_last_over_first"])
    return {**ranked[len(ranked) // 2], "cpu_last_over_first_of_each": [one["cpu_last_over_first"] for one in ranked]}


def _line(timing: dict[str, Any]) -> str:
    kind = "forking" if timing["forking"] else "instant"
    low, high = timing["ms_per_round_p10_p90"]
    return (
        f"width {timing['width']}, {kind} evaluator: {timing['ms_per_round']:.1f} ms per round "
        f"(p10 {low:.1f}, p90 {high:.1f}), {timing['cpu_ms_per_round']:.1f} ms CPU of this process, "
        f"last hundred against first {timing['last_over_first']:.2f} (CPU {timing['cpu_last_over_first']:.2f}, "
        f"of each run {', '.join(f'{ratio:.2f}' for ratio in timing['cpu_last_over_first_of_each'])}), "
        f"{timing['rounds']} rounds"
    )


if __name__ == "__main__":
    main()
