"""Scores a sequence mixer by what it recalls from a memory of bounded size, after pairs that were written again.

Associative recall with several queries (Arora et al. 2023, arXiv 2312.04927), and keys may be bound anew: the last
value counts. The memory is the only thing that crosses from the sandbox that reads the pairs to the one that is asked.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.evaluation import Candidate, Invalid, Plain, Sandbox, array
from evolvent_schemas.values import Scalar

KEYS = 64
ANSWERS = 64
VOCABULARY = KEYS + ANSWERS
"""Tokens below 64 are keys, the others values."""
TAUGHT = (4, 16)
"""Fewest and most pairs in a training sequence."""
LENGTH = 48
"""Tokens of a training sequence: the pairs, then queries up to the end."""
EXAMS = (16, 32, 64, 96)
"""Pairs in an examined sequence. The first is a length that was taught; the score is the mean over the others."""
CHANCE = 1 / ANSWERS
TOLERANCE = 1e-3
"""Of the largest logit; float32 sums in another order differ by about 1e-5 of it."""

Numbers = NDArray[Any]
State = dict[str, Numbers]


@dataclass(frozen=True)
class Terms:
    """The stage's settings."""

    secret: str
    """Held-out sequences follow from it; nobody who designs a candidate may know it."""
    lessons: int
    """Training sequences."""
    rows: int
    """Held-out sequences of each length."""
    queries: int
    """Queries in each of them."""
    state_bytes: int
    """Largest memory of one sequence, four bytes for each number in it."""


@dataclass(frozen=True)
class Exam:
    """Held-out sequences of one length."""

    context: Numbers
    """[B, 2 * pairs]: key, value, key, value, …"""
    queries: Numbers
    """[B, queries]: keys that occur in the context."""
    answers: Numbers
    """[B, queries]: the value bound last to each, from 0; never enters a sandbox."""


@dataclass(frozen=True)
class Reading:
    """What a candidate made of an exam."""

    logits: Numbers
    """[B, 2 * pairs, answers], at the context."""
    state: State
    replies: Numbers
    """[B, queries, answers]"""
    seconds: float
    """Wall time of reading the context."""

    def recall(self, exam: Exam) -> float:
        return float((self.replies.argmax(-1) == exam.answers).mean())


def evaluate(candidate: Candidate, settings: Mapping[str, Scalar], seed: int) -> dict[str, float]:
    """Train in one sandbox, read in a second, answer in a third, and check the answers in a fourth.

    Raises:
        Invalid: an answer has the wrong shape, is not finite, or comes from no causal recurrent learned model.
    """
    terms = Terms(**settings)  # type: ignore[arg-type]
    tokens, targets = lessons(_generator("lessons", seed), terms.lessons)
    with candidate.sandbox() as school:
        learned = _parameters(school.call("train", tokens, targets, VOCABULARY, ANSWERS, seed))
    generator = _generator(terms.secret, seed)
    exams = [exam(generator, pairs, terms.rows, terms.queries) for pairs in EXAMS]
    reader = Reader(learned, terms.state_bytes)
    readings = _take(candidate, reader, exams)
    with candidate.sandbox() as sandbox:
        check = Check(sandbox, reader, exams[0], readings[0], generator)
        check.causal()
        check.recurrent()
        unlearned = check.learned()
    return _metrics(exams, readings) | {"recall_unlearned": unlearned, "parameter_bytes": float(_bytes(learned))}


def lessons(generator: np.random.Generator, count: int) -> tuple[Numbers, Numbers]:
    """Draw training sequences: tokens [count, 48] and targets [count, 48], -1 where nothing is asked."""
    pairs = generator.integers(TAUGHT[0], TAUGHT[1] + 1, count)
    return draw(generator, pairs, LENGTH)


def exam(generator: np.random.Generator, pairs: int, rows: int, queries: int) -> Exam:
    """Draw held-out sequences that all have as many pairs."""
    tokens, targets = draw(generator, np.full(rows, pairs), 2 * pairs + queries)
    return Exam(tokens[:, : 2 * pairs], tokens[:, 2 * pairs :], targets[:, 2 * pairs :])


def draw(generator: np.random.Generator, pairs: Numbers, length: int) -> tuple[Numbers, Numbers]:
    """Draw sequences [B, length] of `pairs` [B] bindings and then queries, with their targets.

    Each binding draws its key from as many keys as there are bindings, hence about a third are bound again.
    """
    rows, most = len(pairs), int(pairs.max())
    pool = generator.permuted(np.tile(np.arange(KEYS), (rows, 1)), axis=1)
    chosen = (generator.random((rows, most)) * np.minimum(pairs, KEYS)[:, None]).astype(np.int64)
    keys = np.take_along_axis(pool, chosen, axis=1)
    values = generator.integers(0, ANSWERS, (rows, most))
    asked = (generator.random((rows, length)) * pairs[:, None]).astype(np.int64)
    queries = np.take_along_axis(keys, asked, axis=1)
    answers = np.take_along_axis(_last(keys, values, pairs), queries, axis=1)
    place = np.arange(length)
    within = place < 2 * pairs[:, None]
    index = np.minimum(place // 2, most - 1)
    written = np.where(place % 2 == 0, keys[:, index], KEYS + values[:, index])
    tokens = np.where(within, written, queries)
    return tokens.astype(np.int32), np.where(within, -1, answers).astype(np.int32)


def _last(keys: Numbers, values: Numbers, pairs: Numbers) -> Numbers:
    """Find the value [B, KEYS] that each key was bound to last."""
    bound = np.zeros((len(keys), KEYS), np.int64)
    for place in range(keys.shape[1]):
        rows = np.flatnonzero(place < pairs)
        bound[rows, keys[rows, place]] = values[rows, place]
    return bound


def _generator(secret: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{secret} {seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _parameters(value: Plain) -> State:
    """Check what `train` returned: a dict of finite floating-point arrays."""
    if not isinstance(value, dict) or not value:
        raise Invalid(f"train returned no dict of arrays but {type(value).__name__}")
    return {name: _floats(each, f"parameter {name}") for name, each in value.items()}


def _floats(value: Plain, name: str) -> Numbers:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise Invalid(f"{name} is no array of floating-point numbers")
    if not (np.abs(value) <= np.finfo(np.float32).max).all():
        raise Invalid(f"{name} holds NaN, infinity or what float32 cannot hold")
    return value.astype(np.float32)


def _bytes(arrays: State) -> int:
    return sum(each.nbytes for each in arrays.values())


@dataclass
class Reader:
    """Lets a candidate read, and sees to it that only the contents of its state depend on what was read."""

    parameters: State
    limit: int
    """Bytes of the state of one sequence."""
    layout: dict[str, tuple[int, ...]] | None = None
    """Names and shapes in a state, without the first axis, as they were after the first call."""

    def read(self, sandbox: Sandbox, state: State | None, tokens: Numbers) -> tuple[Numbers, State]:
        """Read on from a state; return the logits [B, T, answers] and the state after the last token.

        Raises:
            Invalid: the logits or the state are not what they must be, or the state is larger than the limit.
        """
        found = sandbox.call("score", self.parameters, state, np.ascontiguousarray(tokens))
        if not isinstance(found, dict) or found.keys() != {"logits", "state"} or not isinstance(found["state"], dict):
            raise Invalid("score returned no {'logits': …, 'state': {name: array}}")
        logits = array(_floats(found["logits"], "logits"), shape=(*tokens.shape, ANSWERS), dtype="float32")
        after = {name: _floats(each, f"state {name!r:.50}") for name, each in found["state"].items()}
        self._check(after, len(tokens))
        return logits, after

    def _check(self, state: State, rows: int) -> None:
        if wrong := [each.shape for each in state.values() if each.shape[:1] != (rows,)]:
            raise Invalid(
                f"an array of the state has the shape {wrong[0]}; its first axis must be the {rows} sequences"
            )
        if (size := _bytes(state) // rows) > self.limit:
            raise Invalid(f"the state takes {size} bytes for each sequence; at most {self.limit} are granted")
        layout = {name: each.shape[1:] for name, each in state.items()}
        if self.layout is None:
            self.layout = layout
        if layout != self.layout:
            raise Invalid(f"the names or shapes in the state changed from {self.layout!s:.200} to {layout!s:.200}")


def _take(candidate: Candidate, reader: Reader, exams: Sequence[Exam]) -> list[Reading]:
    """Read all contexts in one fresh sandbox and answer all queries in another."""
    contexts = []
    with candidate.sandbox() as first:
        # This call pays for what is set up once, and what it reads says nothing about the exams.
        reader.read(first, None, np.zeros_like(exams[0].context))
        for each in exams:
            began = time.perf_counter()
            logits, state = reader.read(first, None, each.context)
            contexts.append((logits, state, time.perf_counter() - began))
    with candidate.sandbox() as second:
        return [
            Reading(logits, state, reader.read(second, state, each.queries)[0], seconds)
            for each, (logits, state, seconds) in zip(exams, contexts, strict=True)
        ]


def _metrics(exams: Sequence[Exam], readings: Sequence[Reading]) -> dict[str, float]:
    recalls = [reading.recall(each) for each, reading in zip(exams, readings, strict=True)]
    return {
        "recall": float(np.mean(recalls[1:])),
        **{f"recall_{pairs}": recall for pairs, recall in zip(EXAMS, recalls, strict=True)},
        "loss": float(np.mean([_loss(r.replies, e.answers) for e, r in zip(exams[1:], readings[1:], strict=True)])),
        "state_bytes": max(_bytes(reading.state) / len(reading.logits) for reading in readings),
        # From 16 to 64 pairs; 4 is linear, 16 quadratic.
        "slowdown": readings[2].seconds / readings[0].seconds,
    }


def _loss(logits: Numbers, answers: Numbers) -> float:
    """Mean cross-entropy in nats."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    right = np.take_along_axis(shifted, answers[..., None].astype(np.int64), axis=-1)[..., 0]
    return float((np.log(np.exp(shifted).sum(-1)) - right).mean())


@dataclass(frozen=True)
class Check:
    """Asks again, in a sandbox of its own, what must not change the answers."""

    sandbox: Sandbox
    reader: Reader
    exam: Exam
    reading: Reading
    generator: np.random.Generator

    def causal(self) -> None:
        """Replace every later token: no earlier output may change.

        Raises:
            Invalid: one did.
        """
        cut = self.exam.context.shape[1] // 2
        logits, _ = self._again(None, self._other_end(self.exam.context, cut))
        self._same(logits[:, :cut], self.reading.logits[:, :cut], "before a token depends on that token: not causal")
        cut = self.exam.queries.shape[1] // 2
        replies, _ = self._again(self.reading.state, self._other_end(self.exam.queries, cut))
        self._same(replies[:, :cut], self.reading.replies[:, :cut], "before a token depends on that token: not causal")

    def recurrent(self) -> None:
        """Read half of the sequences, in another order and in two pieces: nothing may change.

        Raises:
            Invalid: something did.
        """
        rows = self.generator.permutation(len(self.exam.context))[: max(1, len(self.exam.context) // 2)]
        cut = int(self.generator.integers(1, self.exam.context.shape[1]))
        _, state = self._again(None, self.exam.context[rows, :cut])
        _, state = self._again(state, self.exam.context[rows, cut:])
        replies, _ = self._again(state, self.exam.queries[rows])
        self._same(
            replies, self.reading.replies[rows], f"depends on the other sequences, or on a pause after {cut} tokens"
        )

    def learned(self) -> float:
        """Answer with shuffled parameters; whoever recalls without what was learned has not learned to recall.

        Raises:
            Invalid: half of the recall, and more than four times chance, is left.
        """
        learned = self.reader.parameters.items()
        shuffled = {name: self.generator.permuted(each.ravel()).reshape(each.shape) for name, each in learned}
        reader = Reader(shuffled, self.reader.limit, self.reader.layout)
        _, state = reader.read(self.sandbox, None, self.exam.context)
        replies, _ = reader.read(self.sandbox, state, self.exam.queries)
        left, whole = float((replies.argmax(-1) == self.exam.answers).mean()), self.reading.recall(self.exam)
        if left > max(4 * CHANCE, whole / 2):
            raise Invalid(f"recall is {left:.3f} with shuffled parameters and {whole:.3f} with those that were learned")
        return left

    def _again(self, state: State | None, tokens: Numbers) -> tuple[Numbers, State]:
        return self.reader.read(self.sandbox, state, tokens)

    def _other_end(self, tokens: Numbers, cut: int) -> Numbers:
        other = tokens.copy()
        other[:, cut:] = self.generator.integers(0, VOCABULARY, other[:, cut:].shape)
        return other

    def _same(self, found: Numbers, wanted: Numbers, fault: str) -> None:
        difference, scale = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
        if difference > TOLERANCE * max(scale, 1.0):
            raise Invalid(f"an output {fault} (logits differ by {difference:.3g}, the largest is {scale:.3g})")
