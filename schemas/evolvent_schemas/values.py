"""The values that facts are made of: ids, programs, grants, limits, the specification of a task."""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

ID_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,24}[a-z0-9])?$"
"""Legal as a NATS token, a DNS-1123 name and a Kubernetes label at once."""

INLINE_LIMIT = 64 * 1024
"""Bytes of a program that travel inside a fact; a larger one is an artifact."""

RunId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
UserId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
RoleName = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
StageName = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
RoundId = Annotated[str, StringConstraints(pattern=r"^h?(0|[1-9][0-9]{0,8})$")]
"""`0`, `1`, … for rounds of the ring; `h0`, `h1`, … for rounds of submitted programs (`h0` is the baseline)."""
CandidateId = Annotated[str, StringConstraints(pattern=r"^h?(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,3})$")]
"""`<round>.<attempt>`."""
BASELINE_ROUND = "h0"
"""The round that measures the task's own program, before any other."""
BASELINE = "h0.0"
"""The candidate that is the task's own program."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scalar = str | bool | int | Finite | None
FailureReason = Literal[
    "static_check",
    "crashed",
    "invalid",
    "non_finite",
    "protocol",
    "wall_limit",
    "cpu_limit",
    "memory_limit",
    "process_limit",
    "disk_limit",
    "file_limit",
    "output_limit",
    "parameter_limit",
    "evaluator_crashed",
    "infrastructure",
]
"""The one named outcome of every way in which an experiment can fail.

`evaluator_crashed` is the task's own fault and `infrastructure` the machine's; every other reason is the candidate's.
"""
Blame = Literal["candidate", "evaluator", "infrastructure"]
SandboxTier = Literal["T0", "T1", "T2", "T3"]
"""What contained the candidate: T0 a hardened Job, T1 bubblewrap and cgroups, T2 landlock and seccomp, T3 nothing."""


class Value(BaseModel):
    """A frozen value; unknown fields are refused when it is made and ignored when it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def canonical(value: object) -> bytes:
    """Encode plain data as canonical JSON: sorted keys, no white space, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sha256(content: bytes) -> Digest:
    return hashlib.sha256(content).hexdigest()


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path or "\0" in path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


ProgramPath = Annotated[str, StringConstraints(max_length=200), AfterValidator(_inside)]
Files = dict[ProgramPath, str]


class Program(Value):
    """The source text of a candidate, as one or several files. Never truncated."""

    digest: Digest
    """SHA-256 of the canonical JSON of the files."""
    files: Files | None
    """`{path: text}`; none when the program exceeds 64 kB and its canonical JSON is the artifact `digest`."""

    @classmethod
    def of(cls, files: Mapping[str, str]) -> "Program":
        """Build the program from its files; inline when small enough."""
        content = canonical(dict(files))
        return cls(digest=sha256(content), files=dict(files) if len(content) <= INLINE_LIMIT else None)

    @model_validator(mode="after")
    def _digest_matches(self) -> "Program":
        if self.files is not None and sha256(canonical(self.files)) != self.digest:
            raise ValueError("the digest is not that of the files")
        return self


class Limits(Value):
    """What one experiment may use. A breach is one named failure with what was measured."""

    wall_seconds: float = Field(default=60, gt=0, le=30 * 86400)
    cpu_seconds: float = Field(default=60, gt=0, le=30 * 86400)
    memory_mb: int = Field(default=1024, ge=16)
    """Resident memory of the whole process tree, in MiB."""
    processes: int = Field(default=0, ge=0, le=4096)
    """Processes and threads the candidate may start beside its own main thread."""
    disk_mb: int = Field(default=64, ge=1)
    files: int = Field(default=1000, ge=1)
    output_kb: int = Field(default=256, ge=1)
    """Standard output and error together, in KiB."""


class Stage(Value):
    """One rung of a task's ladder: how a candidate is measured there."""

    name: StageName = "explore"
    kind: Literal["simple", "training"] = "simple"
    """`simple`: the evaluator calls the candidate. `training`: train and score in separate sandboxes."""
    profile: Literal["eager", "compile"] = "eager"
    """`eager` forbids fork; `compile` allows it for torch.compile and Triton."""
    seeds: int = Field(default=1, ge=1, le=64)
    parameters: int | None = Field(default=None, ge=1)
    """Largest number of trained parameter bytes, counted outside the sandbox; none for simple tasks."""
    limits: Limits = Limits()
    settings: dict[str, Scalar] = Field(default_factory=dict)
    """Handed to the evaluator as they stand."""


class Objective(Value):
    """What the score means."""

    metric: str = Field(min_length=1)
    direction: Literal["maximise", "minimise"] = "maximise"
    best_known: Finite | None = None
    source: str = ""
    """Where the best known value is from."""

    def fitness(self, score: float) -> float:
        """Turn a score into a number of which more is better."""
        return score if self.direction == "maximise" else -score


class Budget(Value):
    """What a run may spend; whatever is none is unlimited."""

    rounds: int = Field(default=60, ge=1)
    hours: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, gt=0)


class ProgramSpec(Value):
    """What a candidate of the task is made of."""

    entry: ProgramPath = "program.py"
    """The file that the evaluator imports; it must define every name in `functions`."""
    functions: tuple[str, ...] = Field(min_length=1)
    preload: tuple[str, ...] = ()
    """Modules imported once in the fork server; the candidate pays nothing for them."""


class TaskSpec(Value):
    """`task.toml`, parsed."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")]
    title: str = Field(min_length=1)
    objective: Objective
    program: ProgramSpec
    budget: Budget = Budget()
    width: int = Field(default=1, ge=1, le=64)
    """Rounds open at once."""
    stages: tuple[Stage, ...] = Field(default=(Stage(),), min_length=1)

    def stage(self, name: str) -> Stage:
        """Find a stage by its name.

        Raises:
            KeyError: the ladder has no such stage.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


class RunSettings(Value):
    """Everything that decides how a run goes, fixed when it starts."""

    task: TaskSpec
    bundle: Digest
    """Artifact with the whole task folder."""
    seed: int = Field(ge=0, le=2**63 - 1)
    """Two runs with one seed, width 1 and no model make the same decisions."""
    width: int = Field(default=1, ge=1, le=64)
    budget: Budget = Budget()
    sampler: Literal["random", "greedy", "ucb1"] = "ucb1"
    proposer: Literal["operators", "llm"] = "operators"
    models: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=32
    )
    """Models that design, chosen between by a bandit; the first of them also analyzes. None for `operators`."""
    weigh_models: Literal["usd", "call"] = "usd"
    """What the bandit divides improvements by; without prices it is calls."""
    max_tokens: int = Field(default=16_384, ge=1)
    """Most tokens of one answer."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """None leaves it to the endpoint."""
    edit_mode: Literal["edits", "rewrite"] = "edits"
    """Whether a model sends SEARCH/REPLACE edits or the whole program."""
    lessons: Literal["computed", "llm"] = "computed"
    """Whether lessons follow from the numbers alone or a model words them."""
    judge: bool = False
    """Have a model judge each measured program against the baseline."""
    attempts: int = Field(default=3, ge=1, le=100)
    """Proposals a round may make before it closes without a new candidate."""
    parents: int = Field(default=1, ge=1, le=8)
    references: int = Field(default=3, ge=0, le=64)
    round_seconds: float = Field(default=3600, gt=0)
    """After this long an open round expires."""
    pause_after: int = Field(default=3, ge=1)
    """So many rounds in a row closed by a failing role pause the run."""


class Grant(Value):
    """What one round may spend in all."""

    attempts: int = Field(ge=1)
    tokens: int | None = Field(default=None, ge=0)
    usd: NonNegative | None = None
    compute_seconds: NonNegative
    """Explore compute: wall seconds of the stage times its seeds."""


class Cost(Value):
    """What something has cost."""

    usd: NonNegative = 0.0
    tokens: int = Field(default=0, ge=0)
    wall_seconds: NonNegative = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            usd=self.usd + other.usd,
            tokens=self.tokens + other.tokens,
            wall_seconds=self.wall_seconds + other.wall_seconds,
        )


class ModelCall(Value):
    """One call of a model whose answer was recorded."""

    model: str
    """The model that was asked."""
    purpose: Literal["design", "repair", "lesson", "judge"]
    """What it was asked for; `repair` is the one turn after an answer that could not be used."""
    outcome: str
    """What became of the answer: `used`, `unusable`, or how it ended short of one, such as `refused` or `cut`."""
    cost: Cost = Cost()


class Judgement(Value):
    """A model's opinion of a program against the baseline, which is 5 by definition."""

    score: int = Field(ge=1, le=10)
    """5 is as good as the baseline, above it better."""
    reasons: str = Field(min_length=1)
    """What is better and what is worse than in the baseline."""
    model: str
    """The model that judged."""


class Choice(Value):
    """One member of the population that a sampler chose."""

    candidate: CandidateId
    weight: Finite
    """The sampler's own value for it: probability, rank or upper bound."""


class KnowledgeItem(Value):
    """One piece of human knowledge: a finding, when it applies, optionally the code for it."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
    title: str = Field(min_length=1)
    source: str = ""
    """Paper, page or address it was taken from."""
    insight: str = Field(min_length=1)
    applies: str = ""
    """When it helps, and when it does not."""
    code: str = ""
    """A Python snippet that a proposer may insert as it stands."""


class Retrieved(Value):
    """One item or lesson that retrieval found, with its text, so that the fact shows what the designer saw."""

    id: str
    kind: Literal["item", "lesson"]
    title: str
    text: str
    code: str = ""
    score: Finite
    query: int = Field(ge=0)
    """Index of the query that found it."""


class Prediction(Value):
    """The designer's expectation of the score, made before the measurement."""

    low: Finite
    expected: Finite
    high: Finite

    @model_validator(mode="after")
    def _ordered(self) -> "Prediction":
        if not self.low <= self.expected <= self.high:
            raise ValueError("low <= expected <= high does not hold")
        return self


class Lesson(Value):
    """What one experiment taught: a causal statement that a later run can contradict."""

    change: str = Field(min_length=1)
    """What was changed."""
    effect: str = Field(min_length=1)
    """Which metric moved, by how much, and why."""
    attempt: str = ""
    """What to try next."""
    avoid: str = ""
    prediction: str = ""
    """A statement about a future measurement that can turn out false."""


class Comparison(Value):
    """A candidate against a relative."""

    candidate: CandidateId
    difference: Finite
    """Score minus the relative's score, in the task's unit."""
    lines_added: int = Field(ge=0)
    lines_removed: int = Field(ge=0)


class Best(Value):
    """The leading candidate."""

    candidate: CandidateId
    score: Finite
