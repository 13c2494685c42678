"""The contract of a task's `evaluate.py`: a candidate that can be called, and the word for a wrong answer.

    from evolvent.evaluation import Candidate, Invalid, array

    def evaluate(candidate: Candidate, settings: Mapping[str, Scalar], seed: int) -> dict[str, float]:
        circles = array(candidate.call("pack", 26), shape=(26, 3))
        if overlap(circles) > 0:
            raise Invalid("two circles overlap")
        return {"sum_of_radii": float(circles[:, 2].sum())}

The candidate lives in another process and only plain data crosses: arrays, numbers, text, bytes, lists, dicts.
Whatever it returns is a claim; compute the score from it and fix every constant on this side.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidate", "CandidateFailed", "Invalid", "Plain", "Sandbox", "array"]

Plain = Any
"""None, bool, int of 64 bits, float, str, bytes, numeric `numpy.ndarray`, and lists and str-keyed dicts of these.

Tuples arrive as lists. Everything but the contents of arrays may take 4 MiB per call.
"""


class Invalid(Exception):
    """The candidate answered, and the answer is wrong. Say what is wrong and by how much."""


class CandidateFailed(Exception):
    """The candidate crashed or broke a limit. The outcome is settled: let it pass, catching it changes nothing."""


class Sandbox(Protocol):
    """One process with the candidate's program, isolated from everything else."""

    def call(self, function: str, *arguments: Plain, **named: Plain) -> Plain:
        """Call a function of the program and wait for what it returns.

        What `train` returns is counted against the stage's parameter limit.

        Raises:
            CandidateFailed: it raised, died, answered garbage or ran out of a limit.
        """
        ...


class Candidate(Sandbox, Protocol):
    """The program under evaluation. `call` uses one sandbox that opens at the first call."""

    def sandbox(self) -> AbstractContextManager[Sandbox]:
        """Open a fresh sandbox: nothing that an earlier one kept in memory or on disk is there."""
        ...

    def count(self, value: Plain) -> int:
        """Count a value's bytes, as encoded, against the stage's parameter limit.

        Raises:
            CandidateFailed: it is more than the stage grants.
        """
        ...


def array(value: Plain, *, shape: Sequence[int | None], dtype: str = "float64", finite: bool = True) -> NDArray[Any]:
    """Check that a returned value is an array of this shape and convert it.

    Args:
        value: what the candidate returned: an array, or nested lists of numbers.
        shape: length of each axis; none where any length will do.
        dtype: what to convert to; only conversions that keep the kind of number are made.
        finite: refuse NaN and infinity.

    Raises:
        Invalid: it is not.
    """
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "biufc":
            raise Invalid(f"expected an array of numbers, got {type(value).__name__}")
        found = found.astype(dtype, casting="same_kind")
    except (ValueError, TypeError) as error:
        raise Invalid(f"expected an array of {dtype}: {error}") from error
    if len(shape) != found.ndim or any(w is not None and w != n for w, n in zip(shape, found.shape, strict=True)):
        raise Invalid(f"expected an array of shape {tuple(shape)}, got {found.shape}")
    if finite and not np.isfinite(found).all():
        raise Invalid("the array holds NaN or infinity")
    return found
