"""How facts look in a terminal: one line for each round, a few lines for the end."""

from evolvent.cli.app import console
from evolvent.log import Record
from evolvent.summary import Summary
from evolvent_schemas import Fact, HandlingFailed, RoundClosed, RunFinished, RunPaused, RunResumed, RunStarted
from evolvent_schemas.values import BASELINE_ROUND, Objective


def show(record: Record[Fact], summary: Summary) -> None:
    """Print what a person who watches a run wants to know of this fact; most facts print nothing."""
    match record.fact:
        case RunStarted(settings=settings):
            ways = f"sampler {settings.sampler} · proposer {settings.proposer} · seed {settings.seed}"
            size = f"{settings.budget.rounds} rounds · width {settings.width}"
            console.print(f"run {summary.run}: {settings.task.title} · {size} · {ways}")
        case RoundClosed() as closed:
            console.print(_round(closed, summary))
        case RunPaused(message=message):
            console.print(f"paused: {message}\n  go on with: evolvent resume {summary.run}")
        case RunResumed():
            console.print("resumed")
        case HandlingFailed(role=role, handled=handled, error=error):
            console.print(f"  ! {role} could not handle {handled}: {error}")


def waiting(run: str) -> str:
    """Say that nobody has begun a run, and who would."""
    return f"no conductor is at work; run {run} begins when one serves, or here with: evolvent run {run}"


def _round(closed: RoundClosed, summary: Summary) -> str:
    name = "baseline" if closed.round == BASELINE_ROUND else f"round {closed.round:>4}"
    if closed.outcome != "completed":
        return f"{name}  {closed.outcome:<16} {_one_line(closed.message)}"
    member = summary.members.get(closed.candidate or "")
    best = summary.best
    mark = " ← new best" if best and closed.candidate == best.candidate and closed.round != BASELINE_ROUND else ""
    how = f"{member.proposer.removeprefix('operators/')}: {_one_line(member.motivation)}" if member else ""
    return f"{name}  {closed.score:<16.10g} best {closed.best:<14.10g} {how}{mark}"


def _one_line(text: str, width: int = 90) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def distance(score: float, objective: Objective) -> str:
    """Say how far a score is from the best known value."""
    if objective.best_known is None:
        return ""
    gap = objective.fitness(score) - objective.fitness(objective.best_known)
    if gap == 0:
        return f"equal to the best known {objective.best_known:.10g}"
    side = "better than" if gap > 0 else "short of"
    return f"{abs(gap):.4g} {side} the best known {objective.best_known:.10g}"


def _ended(finished: RunFinished) -> str:
    """Say why a run ended and how far it came; that all rounds are closed is no reason of its own."""
    count = (
        f"{finished.rounds_closed} round{'s' * (finished.rounds_closed != 1)} closed, {finished.rounds_failed} failed"
    )
    if finished.state == "completed":
        return count
    return f"{finished.message.removeprefix(f'{finished.state} ')} ({count})"


def ending(finished: RunFinished, summary: Summary, path: str | None, report: str | None = None) -> None:
    """Print how a run ended and what to do next."""
    run = finished.run
    console.print(f"\n{run} {finished.state}: {_ended(finished)}")
    if summary.settings is not None and summary.baseline is not None and summary.baseline.score is not None:
        console.print(f"baseline  {summary.baseline.score:.10g}")
    if finished.best is not None and summary.settings is not None:
        objective = summary.settings.task.objective
        gap = distance(finished.best.score, objective)
        console.print(f"best      {finished.best.score:.10g} {objective.metric}, candidate {finished.best.candidate}")
        if gap:
            console.print(f"          {gap}")
        console.print(f"program   {path}")
    if report is not None:
        console.print(f"report    {report}")
    if finished.best is not None:
        console.print(
            f"\nnext:\n  evolvent best {run}  # the program that won\n"
            f"  evolvent why {finished.best.candidate} --run {run}  # how it came to be\n"
            f"  evolvent show {run}  # every candidate\n"
            f"  evolvent audit replay {run}  # check every decision against the log",
        )
