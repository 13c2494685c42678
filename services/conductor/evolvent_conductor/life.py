"""The life of a run as a state machine over its inputs.

The conductor's decisions are part of its fold: each input makes the next state and, in `due`, the facts that follow
from it. So every join (the last round closed, the K-th failure in a row) falls to the one cause that completes it in
log order, however many replicas work at once and however late their own facts are stored.
"""

import math
from datetime import datetime
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field

from evolvent.folds import Fold, Map, State, empty
from evolvent.log import Record
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    DirectiveIssued,
    DirectiveRefused,
    Fact,
    HandlingFailed,
    KnowledgeIngested,
    RoundClosed,
    RoundExhausted,
    RoundExpired,
    RoundOpened,
    RunFinished,
    RunHalted,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSteered,
)
from evolvent_schemas.facts.directive import Approve, Halt, Pause, Resume, Start, Steer, Submit
from evolvent_schemas.facts.round import RoundOutcome
from evolvent_schemas.values import BASELINE_ROUND, Best, Cost, Grant, Program, RunSettings, Value

Due = Annotated[
    RunStarted
    | RunPaused
    | RunResumed
    | RunSteered
    | RunHalted
    | RunFinished
    | RoundOpened
    | RoundClosed
    | DirectiveRefused,
    Field(discriminator="type"),
]
Ending = Literal["completed", "budget", "failed", "halted"]


class OpenRound(Value):
    """A token in the ring."""

    since: datetime
    grant: Grant
    cost: Cost = Cost()


class Submission(Value):
    """A program that waits for its own round, or is in it."""

    program: Program
    note: str


class Life(State):
    """Where a run stands, and what its last input makes due."""

    run: str = ""
    settings: RunSettings | None = None
    status: Literal["absent", "open", "paused", "halted", "finished"] = "absent"
    started: datetime | None = None
    open: Map[str, OpenRound] = Field(default_factory=empty)
    held: tuple[str, ...] = ()
    """Rounds that open when the run is resumed."""
    submissions: Map[str, Submission] = Field(default_factory=empty)
    submitted: int = 0
    closed: int = 0
    """Rounds of the ring that ended."""
    failed: int = 0
    """Those of them that did not complete."""
    failing: int = 0
    """Rounds closed by a failing role since the last that was not."""
    pauses: int = 0
    steers: int = 0
    best: Best | None = None
    cost: Cost = Cost()
    exhausted: str = ""
    """Which budget ran out."""
    ending: tuple[Ending, str] | None = None
    due: tuple[Due, ...] = ()

    @property
    def rules(self) -> RunSettings:
        assert self.settings is not None
        return self.settings

    @property
    def awaits_baseline(self) -> bool:
        """Whether the baseline's round has not begun, nor been held back."""
        waits = (
            BASELINE_ROUND in self.submissions and BASELINE_ROUND not in self.open and BASELINE_ROUND not in self.held
        )
        return waits and self.status in {"open", "paused"}

    def then(self, *facts: Any, **changes: object) -> "Life":
        """Make the next state, with these facts due after those that already are."""
        return self.evolve(due=(*self.due, *facts), **changes)


def step(life: Life, record: Record[Fact]) -> Life:
    """Fold one input."""
    life = life.evolve(due=())
    match record.fact:
        case DirectiveIssued() as directive:
            return _obey(life, directive, record.time)
        case KnowledgeIngested(batch="task") if life.awaits_baseline:
            return _open(life, (BASELINE_ROUND,), record.time)
        case CandidateProposed(candidate=candidate, cost=cost):
            return _spend(life, _round(candidate), cost)
        case CandidateAnalyzed() as analyzed:
            return _measured(life, analyzed, record.time)
        case RoundExhausted(round=number, reason=reason, cost=cost):
            return _settle(_spend(life, number, cost), number, "exhausted", record.time, message=reason)
        case RoundExpired(round=number, open_seconds=seconds):
            return _settle(life, number, "expired", record.time, message=f"open for {seconds:.0f} s")
        case HandlingFailed() as failure:
            return _role_failed(life, failure, record.time)
        case _:
            return life


def _obey(life: Life, directive: DirectiveIssued, now: datetime) -> Life:
    if (refusal := _refusal(life, directive)) is not None:
        refused = DirectiveRefused(
            run=directive.run, user=directive.user, directive=directive.directive, reason=refusal
        )
        return life.then(refused)
    match directive.request:
        case Start() as start:
            return _start(life, directive, start, now)
        case Pause(reason=reason):
            return _pause(life, "user", reason or f"paused by {directive.user}")
        case Resume():
            resumed = RunResumed(run=life.run, ordinal=life.pauses - 1)
            return _open(life.then(resumed, status="open", failing=0, held=()), life.held, now)
        case Halt(reason=reason):
            halted = RunHalted(run=life.run, reason=reason or f"halted by {directive.user}")
            return _finish(life.then(halted), "halted", halted.reason)
        case Steer(text=text):
            return life.then(RunSteered(run=life.run, ordinal=life.steers, text=text), steers=life.steers + 1)
        case Submit(program=program, note=note):
            return _submit(life, Submission(program=program, note=note), now)
        case Approve():
            return life
        case _:
            assert_never(directive.request)


def _refusal(life: Life, directive: DirectiveIssued) -> str | None:
    """Say why a directive cannot be obeyed now; none when it can."""
    match directive.request.action, life.status:
        case "start", "absent":
            return None
        case "start", _:
            return f"run {life.run} has already started"
        case _, "absent":
            return f"run {directive.run} has not started"
        case _, ("halted" | "finished") as status:
            return f"run {life.run} is {status}"
        case "resume", "open":
            return f"run {life.run} is not paused"
        case "pause", "paused":
            return f"run {life.run} is already paused"
        case "submit", _ if life.exhausted:
            return f"the budget of {life.exhausted} is spent"
        case "approve", _:
            return f"run {life.run} waits for no approval"
        case _:
            return None


def _start(life: Life, directive: DirectiveIssued, start: Start, now: datetime) -> Life:
    started = RunStarted(run=directive.run, settings=start.settings, user=directive.user)
    baseline = Submission(program=start.baseline, note="the task's own baseline")
    return life.then(
        started,
        run=directive.run,
        settings=start.settings,
        status="open",
        started=now,
        submissions=life.submissions.insert(BASELINE_ROUND, baseline),
        submitted=1,
    )


def _submit(life: Life, submission: Submission, now: datetime) -> Life:
    number = f"h{life.submitted}"
    life = life.evolve(submissions=life.submissions.insert(number, submission), submitted=life.submitted + 1)
    return _open(life, (number,), now)


def _open(life: Life, rounds: tuple[str, ...], now: datetime) -> Life:
    """Open rounds, or hold them while the run is paused."""
    if life.status == "paused":
        return life.evolve(held=(*life.held, *rounds))
    for number in rounds:
        grant = _grant(life)
        life = life.then(_opened(life, number, grant), open=life.open.insert(number, OpenRound(since=now, grant=grant)))
    return life


def _opened(life: Life, number: str, grant: Grant) -> RoundOpened:
    submission = life.submissions.get(number)
    return RoundOpened(
        run=life.run,
        round=number,
        grant=grant,
        submission=submission.program if submission else None,
        note=submission.note if submission else "",
    )


def _grant(life: Life) -> Grant:
    """Share what is left, less what open rounds may still spend, evenly over the rounds to come."""
    budget, stage = life.rules.budget, life.rules.task.stages[0]
    to_come = max(1, budget.rounds - life.closed - len(life.open))
    reserved = [token.grant for token in life.open.values()]
    tokens = usd = None
    if budget.tokens is not None:
        tokens = max(0, budget.tokens - life.cost.tokens - sum(grant.tokens or 0 for grant in reserved)) // to_come
    if budget.usd is not None:
        # fsum is exact, so that the order of a `Map`, which differs between processes, makes no difference
        usd = max(0.0, budget.usd - life.cost.usd - math.fsum(grant.usd or 0 for grant in reserved)) / to_come
    seconds = stage.limits.wall_seconds * stage.seeds
    return Grant(attempts=life.rules.attempts, tokens=tokens, usd=usd, compute_seconds=seconds)


def _spend(life: Life, number: str, cost: Cost) -> Life:
    token = life.open.get(number)
    if token is not None:
        life = life.evolve(open=life.open.insert(number, token.model_copy(update={"cost": token.cost + cost})))
    return life.evolve(cost=life.cost + cost)


def _measured(life: Life, analyzed: CandidateAnalyzed, now: datetime) -> Life:
    if life.settings is None or analyzed.stage != life.rules.task.stages[0].name:
        return life
    number = _round(analyzed.candidate)
    life = _spend(life, number, analyzed.cost + Cost(wall_seconds=analyzed.wall_seconds))
    if analyzed.score is None:
        message = f"{analyzed.failure}: {analyzed.message}"
        return _settle(life, number, "candidate_failed", now, candidate=analyzed.candidate, message=message)
    worth = life.rules.task.objective.fitness
    if life.best is None or worth(analyzed.score) > worth(life.best.score):
        life = life.evolve(best=Best(candidate=analyzed.candidate, score=analyzed.score))
    return _settle(life, number, "completed", now, candidate=analyzed.candidate, score=analyzed.score)


def _role_failed(life: Life, failure: HandlingFailed, now: datetime) -> Life:
    if failure.role == "conductor":
        return _again(life, failure)
    message = f"{failure.role} could not handle {failure.handled}: {failure.reason}: {failure.error}"
    if failure.round is not None:
        life = _spend(life, failure.round, failure.cost)
        outcome: RoundOutcome = "code_changed" if failure.reason == "code_changed" else "role_failed"
        return _settle(life, failure.round, outcome, now, message=message)
    if not life.awaits_baseline:
        return life
    life = life.evolve(held=(*life.held, BASELINE_ROUND))
    return _pause(life, "ingestion_failed", message) if life.status == "open" else life


def _again(life: Life, failure: HandlingFailed) -> Life:
    """Make due once more what the conductor may not have stored when it gave a fact up; all of it are claims."""
    number = failure.round
    if life.settings and number and number not in life.open and number not in life.held:
        life = life.then(RoundClosed(run=life.run, round=number, outcome="role_failed", message=failure.error))
    life = life.then(*(_opened(life, number, token.grant) for number, token in sorted(life.open.items())))
    return life.then(_finished(life)) if life.ending else life


def _settle(
    life: Life,
    number: str,
    outcome: RoundOutcome,
    now: datetime,
    *,
    candidate: str | None = None,
    score: float | None = None,
    message: str = "",
) -> Life:
    """Close a round and pass its token on. A round that is not open was settled before: nothing is due."""
    token = life.open.get(number)
    if token is None:
        return life
    closed = RoundClosed(
        run=life.run,
        round=number,
        outcome=outcome,
        candidate=candidate,
        score=score,
        best=life.best.score if life.best else None,
        message=message[:4000],
        cost=token.cost,
    )
    of_ring = not number.startswith("h")
    by_role = outcome in {"role_failed", "code_changed", "expired"}
    life = life.then(
        closed,
        open=life.open.remove(number),
        submissions=life.submissions.discard(number),
        closed=life.closed + of_ring,
        failed=life.failed + (of_ring and outcome != "completed"),
        failing=life.failing + 1 if by_role else 0,
    )
    if number == BASELINE_ROUND and outcome != "completed":
        return _finish(life, "failed", f"the baseline could not be measured: {message}")
    return _pass_on(life, number, message, now)


def _pass_on(life: Life, number: str, message: str, now: datetime) -> Life:
    exhausted = life.exhausted or _spent(life, now)
    life = life.evolve(exhausted=exhausted, held=() if exhausted else life.held)
    successors = () if exhausted else _successors(life, number)
    if life.failing >= life.rules.pause_after and life.status == "open":
        life = _pause(life, "role_failing", f"{life.failing} rounds in a row failed by a role, the last: {message}")
    life = _open(life, successors, now)
    if life.exhausted and not life.open:
        return _finish(life, "budget", f"the budget of {life.exhausted} is spent")
    if life.open or life.held or life.awaits_baseline:
        return life
    return _finish(life, "completed", f"{life.closed} rounds closed")


def _successors(life: Life, number: str) -> tuple[str, ...]:
    if number == BASELINE_ROUND:
        return tuple(str(n) for n in range(min(life.rules.width, life.rules.budget.rounds)))
    if number.startswith("h"):
        return ()
    successor = int(number) + life.rules.width
    return (str(successor),) if successor < life.rules.budget.rounds else ()


def _spent(life: Life, now: datetime) -> str:
    """Name the budget that is used up; empty when none is."""
    budget = life.rules.budget
    assert life.started is not None
    hours = (now - life.started).total_seconds() / 3600
    used = {
        "hours": (hours, budget.hours),
        "tokens": (life.cost.tokens, budget.tokens),
        "usd": (life.cost.usd, budget.usd),
    }
    return next((name for name, (spent, limit) in used.items() if limit is not None and spent >= limit), "")


def _pause(life: Life, reason: Any, message: str) -> Life:
    paused = RunPaused(run=life.run, ordinal=life.pauses, reason=reason, message=message[:4000])
    return life.then(paused, status="paused", pauses=life.pauses + 1)


def _finish(life: Life, state: Ending, message: str) -> Life:
    life = life.evolve(ending=(state, message[:4000]), held=(), open=empty())
    return life.then(_finished(life), status="halted" if state == "halted" else "finished")


def _finished(life: Life) -> RunFinished:
    assert life.ending is not None
    state, message = life.ending
    return RunFinished(
        run=life.run,
        state=state,
        message=message,
        rounds_closed=life.closed,
        rounds_failed=life.failed,
        best=life.best,
        cost=life.cost,
    )


def _round(candidate: str) -> str:
    return candidate.partition(".")[0]


FOLD = Fold(
    name="life",
    version=2,
    state=Life,
    facts=(
        DirectiveIssued,
        KnowledgeIngested,
        CandidateProposed,
        CandidateAnalyzed,
        RoundExhausted,
        RoundExpired,
        HandlingFailed,
    ),
    step=step,
)
