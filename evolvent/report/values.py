"""What a report says, as values; `report.json` is this and the page is a rendering of it."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from evolvent.summary import RunState
from evolvent_schemas.values import (
    CandidateId,
    Cost,
    FailureReason,
    Files,
    Finite,
    Lesson,
    NonNegative,
    Objective,
    Prediction,
    RoundId,
    RunId,
    RunSettings,
    StageName,
    Value,
)

Word = Literal["nothing", "claim", "confirmed", "refuted"]


class Estimate(Value):
    """A measured score with what is known of its noise."""

    candidate: CandidateId
    score: Finite
    """Mean over the seeds, in the task's unit."""
    seeds: int = Field(ge=0)
    spread: NonNegative | None = None
    """Standard deviation over the seeds, ddof 1; none below two seeds."""
    low: Finite | None = None
    """Lower end of the 95 % Student interval of the mean over seeds; none below two seeds."""
    high: Finite | None = None


class Noise(Value):
    """The noise of seeds, pooled over the candidates that were measured with at least two."""

    deviation: NonNegative
    """Square root of the mean variance, weighted by degrees of freedom, in the task's unit."""
    degrees: int = Field(ge=1)
    """Degrees of freedom: seeds less one, summed over the candidates."""
    candidates: int = Field(ge=1)


class Verdict(Value):
    """What a confirmation on fresh seeds found."""

    candidate: CandidateId
    confirmed: bool
    stage: StageName
    seeds: int
    difference: Finite
    low: Finite
    high: Finite
    p_value: float


class Claim(Value):
    """A candidate that beat every earlier one on the search proxy."""

    candidate: CandidateId
    stage: StageName
    score: Finite
    previous: Finite | None


class Standing(Value):
    """What the search found, and how much weight it bears."""

    word: Word
    """`nothing`: no candidate beat the baseline. `claim`: one did, on the search proxy alone. `confirmed`, `refuted`:
    fresh seeds decided about the best candidate."""
    stage: StageName
    """The stage whose scores the search went by: the proxy."""
    measured: int
    """Candidates with a score, the baseline included; the best of many noisy scores overstates."""
    baseline: Estimate | None
    best: Estimate | None
    gain: Finite | None
    """Fitness of the best less that of the baseline, in the task's unit; more is better."""
    gap: Finite | None
    """Fitness of the best less that of the best known value."""
    noise: Noise | None
    claims: tuple[Claim, ...]
    verdicts: tuple[Verdict, ...]


class Point(Value):
    """One place of the curve: a measurement or a failure, in log order."""

    round: RoundId
    candidate: CandidateId | None
    score: Finite | None
    """None where nothing was measured."""
    fault: str
    """Why nothing was measured; empty when something was."""
    best: Finite | None
    """Best score so far, this place included."""
    leads: bool
    """Whether it became the best."""


class StageResult(Value):
    """What a stage beyond the first found."""

    stage: StageName
    score: Finite | None
    seeds: int
    spread: NonNegative | None
    failure: FailureReason | None


class Candidate(Value):
    """One candidate and what became of it."""

    candidate: CandidateId
    round: RoundId
    status: Literal["proposed", "duplicate", "measured", "failed"]
    score: Finite | None
    seeds: int
    spread: NonNegative | None
    gain: Finite | None
    """Fitness less that of `against`; more is better."""
    against: CandidateId | None
    """Its first measured parent, or the baseline."""
    claimed: bool
    """Whether it beat every earlier one when it was measured."""
    parents: tuple[CandidateId, ...]
    generation: int
    """First parents between it and one without any."""
    on_path: bool
    """Whether it is the best or one of its first parents."""
    proposer: str
    motivation: str
    cited: tuple[str, ...]
    repeats: CandidateId | None
    failure: FailureReason | None
    message: str
    repairs: int
    prediction: Prediction | None
    prediction_held: bool | None
    wall_seconds: NonNegative
    tier: str
    digest: str
    """SHA-256 of the program's files."""
    stages: tuple[StageResult, ...]


class Taught(Value):
    """A lesson, who taught it, and how often a later design leaned on it."""

    id: str
    candidate: CandidateId
    stage: StageName
    lesson: Lesson
    cited: int


class Gains(Value):
    """What the candidates of a group gained over their first measured parent; an association, not a cause."""

    proposed: int
    measured: int
    failed: int
    duplicates: int
    compared: int
    """Measured candidates with a relative to compare with: the n of what follows."""
    improved: int
    """Measured candidates better than what they were compared with."""
    mean: Finite | None
    """Mean gain in fitness; none when nothing was compared."""
    deviation: NonNegative | None
    """Standard deviation of the gains, ddof 1; none below two."""
    most: Finite | None


class Citation(Value):
    """A piece of knowledge or a lesson that retrieval found or a design cited."""

    id: str
    kind: Literal["item", "lesson", "unknown"]
    """`unknown`: cited and never retrieved."""
    title: str
    retrieved: int
    """Rounds in which it was found."""
    gains: Gains
    """Of the candidates that cite it."""


class ProposerShare(Value):
    """What one proposer brought."""

    proposer: str
    gains: Gains


class Predictions(Value):
    """How often a measured score lay within its designer's interval."""

    made: int
    held: int
    mean_error: Finite
    """Mean of score less prediction, in the task's unit."""


class RoleCost(Value):
    """What one role did and spent."""

    role: str
    facts: int
    """Facts it published, effects not counted."""
    effects: int
    """Recorded effects: calls of something outside the log."""
    failed_effects: int
    repeated: int
    """Deliveries before the one that was recorded; each may have made a call that nobody recorded."""
    tokens: int
    usd: NonNegative
    call_seconds: NonNegative
    compute_seconds: NonNegative
    """Wall seconds of experiments, all tries."""


class ModelCost(Value):
    """What one model was asked."""

    model: str
    calls: int
    unusable: int
    """Answers that were cut, refused, empty or garbled."""
    unpriced: int
    """Calls whose price is unknown; they count 0 US dollars."""
    tokens_in: int
    tokens_out: int
    usd: NonNegative
    wall_seconds: NonNegative


class Costs(Value):
    """What the run has cost."""

    booked: Cost
    """As the conductor booked it against the budget."""
    roles: tuple[RoleCost, ...]
    models: tuple[ModelCost, ...]
    elsewhere: int
    """Effects whose answer is an artifact, so that their model is not told apart here."""


class Happening(Value):
    """Something that happened to the run as a whole."""

    time: datetime
    type: str
    text: str


class Rounds(Value):
    """Rounds of the ring."""

    budget: int
    closed: int
    failed: int
    open: tuple[RoundId, ...]
    outcomes: dict[str, int]
    """How many closed with each outcome, rounds of submitted programs included."""


class Counts(Value):
    """Candidates by what became of them."""

    proposed: int
    measured: int
    failed: int
    duplicates: int
    pending: int
    """Proposed, and neither measured, failed nor a duplicate yet."""


class Report(Value):
    """A run, told from its log alone; the same log gives the same report, byte for byte."""

    format: Literal["evolvent.report/1"] = "evolvent.report/1"
    run: RunId
    title: str
    user: str
    state: RunState
    message: str
    started: datetime
    last: datetime
    """Time of the last fact that was read."""
    facts: int
    """Facts that were read, effects included."""
    objective: Objective
    settings: RunSettings
    steering: tuple[str, ...]
    rounds: Rounds
    counts: Counts
    standing: Standing
    curve: tuple[Point, ...]
    candidates: tuple[Candidate, ...]
    """In the order in which they were proposed."""
    path: tuple[CandidateId, ...]
    """First parents from the oldest to the best."""
    program: Files
    """The best candidate's files; empty when there is none."""
    lessons: tuple[Taught, ...]
    knowledge_items: int
    """How many items were ingested."""
    citations: tuple[Citation, ...]
    proposers: tuple[ProposerShare, ...]
    predictions: Predictions | None
    costs: Costs
    happenings: tuple[Happening, ...]
    check: tuple[str, ...]
    """Commands that check the report against the log."""
