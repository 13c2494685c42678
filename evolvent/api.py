"""The Python API: open a home, start runs, follow their facts, read what they found, speak to them.

Every call is a coroutine on the caller's own event loop. Errors are those of `evolvent.errors`: `Refused` for what
cannot be done, `Unreachable` when no server answers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from evolvent import hosting, runs, task, telemetry
from evolvent import report as reports
from evolvent.errors import EvolventError, Refused
from evolvent.hosting import HostGone, Tenure
from evolvent.log import Record
from evolvent.platform import Platform
from evolvent.report import Report
from evolvent.settings import Settings
from evolvent.summary import Summary
from evolvent_schemas import (
    DirectiveRefused,
    Fact,
    Halt,
    HandlingFailed,
    Pause,
    Request,
    Resume,
    RunFinished,
    Steer,
    Submit,
    subjects,
)
from evolvent_schemas.values import Program

T = TypeVar("T")
P = ParamSpec("P")

ANSWER_WITHIN = 10.0
"""Seconds that a conductor has to answer a directive; chosen as for the command line."""


@dataclass(frozen=True)
class Best:
    """The best candidate of a run so far, by the search proxy: a claim, not a discovery."""

    candidate: str
    score: float
    """Mean over the seeds, in the task's unit."""
    files: Mapping[str, str]
    """The program: `{path: text}`."""


class Lab:
    """An open home: its roles are hosted here, or by the process that had it first, and here once that has ended."""

    def __init__(self, settings: Settings, *, host: bool, processes: bool) -> None:
        self.settings = settings
        self._tenure: asyncio.Future[Tenure] = asyncio.get_running_loop().create_future()
        carried = hosting.carry(settings, self._hold, processes=processes) if host else self._read()
        self._carrying = asyncio.create_task(carried)

    async def start(
        self,
        folder: str | Path,
        *,
        rounds: int | None = None,
        seed: int | None = None,
        hours: float | None = None,
        tokens: int | None = None,
        usd: float | None = None,
        run: str | None = None,
        **options: Any,
    ) -> "Run":
        """Start a run on a task folder; what is none is as `task.toml` has it. Returns once a conductor has it.

        Args:
            folder: the task folder.
            rounds: rounds of the ring, at least 1.
            seed: at least 0; drawn when not given.
            hours: wall hours after which no round opens; so `tokens` and `usd`.
            tokens: model tokens.
            usd: US dollars.
            run: id of the new run; drawn when not given.
            options: other fields of `RunSettings`, such as `width` or `sampler`.

        Raises:
            Refused: the folder is no task, the id is taken, or an option is unknown or out of range.
        """
        wanted = {"rounds": rounds, "hours": hours, "tokens": tokens, "usd": usd}
        budget = {name: value for name, value in wanted.items() if value is not None}
        plan = runs.Plan(task.load(Path(folder)), seed, budget, options)
        tenure = await self._up()
        return Run(self, await self._during(tenure, _started(tenure.platform, plan, run)))

    async def run(self, run: str) -> "Run":
        """Find a run by its id; one that was cut off goes on as soon as its home is open.

        Raises:
            Refused: there is no such run.
        """
        tenure = await self._up()
        await self._during(tenure, runs.settings_of(tenure.platform, run))
        return Run(self, run)

    async def runs(self) -> list[str]:
        """List the ids of all runs, the newest last."""
        tenure = await self._up()
        return await self._during(tenure, runs.listed(tenure.platform))

    async def close(self) -> None:
        """Let the roles that are hosted here finish what is in work."""
        self._carrying.cancel()
        await asyncio.gather(self._carrying, return_exceptions=True)

    async def _read(self) -> None:
        async with hosting.reading(self.settings) as platform:
            await self._hold(Tenure(platform, asyncio.get_running_loop().create_future(), ours=False))

    async def _hold(self, tenure: Tenure) -> None:
        """Offer a platform until its time is over; raises what ended it."""
        self._tenure.set_result(tenure)
        try:
            await asyncio.wait({tenure.over})
        finally:
            self._tenure = asyncio.get_running_loop().create_future()
        tenure.over.result()

    async def _up(self) -> Tenure:
        """Wait for a platform.

        Raises:
            EvolventError: what ended the roles that were hosted here.
        """
        while not self._tenure.done():
            await _first(self._tenure, self._carrying)
            if self._carrying.done():
                if not self._carrying.cancelled():
                    self._carrying.result()
                raise EvolventError(f"the home {self.settings.home} is closed; open it again")
        return self._tenure.result()

    async def _during(self, tenure: Tenure, work: Coroutine[Any, Any, T]) -> T:
        """Do something on a platform, and give it up when its time is over.

        Raises:
            HostGone: the process that served the home has ended; do it again.
            EvolventError: what ended the roles that were hosted here.
        """
        doing = asyncio.create_task(work)
        try:
            await _first(doing, tenure.over)
            if doing.done():
                return doing.result()
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        if not tenure.over.cancelled():
            tenure.over.result()
        raise HostGone(f"the process that served {self.settings.home} has ended; do it again")


@dataclass(frozen=True)
class Run:
    """One run of an open home."""

    lab: Lab
    id: str

    async def facts(self) -> AsyncIterator[Fact]:
        """Yield the run's facts in log order, each once, from the first until the run has finished.

        Raises:
            EvolventError: the conductor gave a fact up, so that the run cannot end by itself.
        """
        seen = 0
        while True:
            tenure = await self.lab._up()  # noqa: SLF001 - one module
            records = tenure.platform.log("user").follow([subjects.of_run(self.id)], start=seen + 1)
            with suppress(HostGone):
                while True:
                    record = await self.lab._during(tenure, _next(records))  # noqa: SLF001
                    seen = record.sequence
                    yield record.fact
                    if isinstance(record.fact, RunFinished):
                        return
                    _mind(record.fact)

    async def wait(self) -> RunFinished:
        """Wait until the run has finished.

        Raises:
            EvolventError: as `facts`.
        """
        async for fact in self.facts():
            if isinstance(fact, RunFinished):
                return fact
        raise EvolventError(f"the log of run {self.id} ended")

    async def summary(self) -> Summary:
        """Fold the run as it stands now."""
        return await self._with(runs.summarize)

    async def best(self) -> Best:
        """Read the best program so far.

        Raises:
            Refused: no candidate was measured yet.
        """
        return await self._with(_best)

    async def report(self) -> Report:
        """Tell the run as it stands; `evolvent report` renders the same."""
        return await self._with(reports.build)

    async def steer(self, text: str) -> Fact | None:
        """Tell the designers something for all rounds to come.

        Returns what the conductor made of it, none when it has not answered within ten seconds; the directive stands
        on the log either way. So do `pause`, `resume`, `halt` and `submit`.

        Raises:
            Refused: the conductor refused.
        """
        return await self._ask(Steer(text=text))

    async def pause(self, reason: str = "") -> Fact | None:
        """Open no new round; open rounds go on."""
        return await self._ask(Pause(reason=reason))

    async def resume(self) -> Fact | None:
        """Open the rounds held back since the pause."""
        return await self._ask(Resume())

    async def halt(self, reason: str = "") -> Fact | None:
        """End the run now; what is at work on it stops."""
        return await self._ask(Halt(reason=reason))

    async def submit(self, files: Mapping[str, str], note: str = "") -> Fact | None:
        """Have a program of your own, `{path: text}`, measured in a round of its own."""
        program = Program.of(files)
        tenure = await self.lab._up()  # noqa: SLF001
        await self.lab._during(tenure, tenure.platform.artifacts.put_program(program, dict(files)))  # noqa: SLF001
        return await self._ask(Submit(program=program, note=note))

    async def _ask(self, request: Request) -> Fact | None:
        answer = await self._with(_asked, request)
        if isinstance(answer, DirectiveRefused):
            raise Refused(answer.reason)
        return answer

    async def _with(
        self, work: Callable[Concatenate[Platform, str, P], Coroutine[Any, Any, T]], *rest: P.args, **more: P.kwargs
    ) -> T:
        tenure = await self.lab._up()  # noqa: SLF001
        return await self.lab._during(tenure, work(tenure.platform, self.id, *rest, **more))  # noqa: SLF001


async def _first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of them is done; none is cancelled."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _next(records: AsyncIterator[Record[Fact]]) -> Record[Fact]:
    return await anext(records)


def _mind(fact: Fact) -> None:
    if isinstance(fact, HandlingFailed) and fact.role == "conductor":
        raise EvolventError(f"the conductor could not handle {fact.handled}: {fact.error}")


async def _best(platform: Platform, run: str) -> Best:
    member = (await runs.summarize(platform, run)).best
    if member is None or member.score is None:
        raise Refused(f"run {run} has no measured candidate yet")
    return Best(member.candidate, member.score, await platform.artifacts.files(member.program))


async def _started(platform: Platform, plan: runs.Plan, run: str | None) -> str:
    """Start a run and wait a moment for the conductor to have it; without one the run begins when there is one."""
    name = await runs.start(platform, plan, run)
    await runs.begun(platform, name, within=ANSWER_WITHIN)
    return name


async def _asked(platform: Platform, run: str, request: Request) -> Fact | None:
    await runs.settings_of(platform, run)
    return await runs.answer(platform, await runs.issue(platform, run, request), within=ANSWER_WITHIN)


@asynccontextmanager
async def open(  # noqa: A001 - read as `evolvent.open`
    home: str | Path = ".evolvent", *, host: bool = True, processes: bool = False, **settings: Any
) -> AsyncIterator[Lab]:
    """Open a home and have its runs carried for as long as the block lasts.

    Args:
        home: where everything is kept; made when it is not there.
        host: host the roles, unless another process does; without it runs are only read and spoken to.
        processes: each role as a process of its own, restarted when it dies.
        settings: other fields of `evolvent.settings.Settings`, such as `nats_url` or `allow_unsafe_sandbox`.

    Raises:
        Refused: the home cannot be made, or no sandbox contains a candidate here.
        Unreachable: a server is named and does not answer.
    """
    chosen = Settings(home=Path(home), **settings)
    if not structlog.is_configured():
        telemetry.to_file(chosen.home / "logs" / "api.jsonl")
    lab = Lab(chosen, host=host, processes=processes)
    try:
        await lab._up()  # noqa: SLF001 - its own constructor function
        yield lab
    finally:
        await lab.close()
