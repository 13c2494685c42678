"""Which experiment a Job is: its name, its labels, and the way back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from evolvent.errors import Refused
from evolvent_schemas.values import CandidateId, RoundId, RunId, StageName, canonical, sha256

MANAGED = {"app.kubernetes.io/name": "experiment", "app.kubernetes.io/managed-by": "evolvent-engineer"}
SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED.items())
"""Finds every Job and pod of ours, whichever engineer created it."""
RUN_LABEL = "evolvent/run"
_ID = re.compile(r"(?P<run>.+)-(?P<candidate>h?\d+\.\d+)\.(?P<stage>[^.]+)\.(?P<seed>\d+)\.(?P<attempt>\d+)")
_DIGEST_LENGTH = 12
"""With the run and the candidate before it, 48 bits tell the stages, seeds and tries of one candidate apart."""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One try of one measurement."""

    run: RunId
    candidate: CandidateId
    stage: StageName
    seed: int
    attempt: int
    """0 for the first try; another one follows a failure of the infrastructure."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an experiment's id, `<run>-<round>.<attempt>.<stage>.<seed>.<try>`.

        Raises:
            Refused: it is no such id.
        """
        found = _ID.fullmatch(text)
        if found is None:
            raise Refused(f"{text!r} is not <run>-<round>.<attempt>.<stage>.<seed>.<try>")
        run, candidate, stage, seed, attempt = found.groups()
        return cls(run, candidate, stage, int(seed), int(attempt))

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Self:
        """Read the identity back from a Job's labels.

        Raises:
            KeyError, ValueError: somebody changed them.
        """
        seed, attempt = int(labels["evolvent/seed"]), int(labels["evolvent/try"])
        return cls(labels[RUN_LABEL], labels["evolvent/candidate"], labels["evolvent/stage"], seed, attempt)

    def __str__(self) -> str:
        return f"{self.run}-{self.key}"

    @property
    def round(self) -> RoundId:
        return self.candidate.rpartition(".")[0]

    @property
    def key(self) -> str:
        """What follows the run in the subjects of the experiment's facts."""
        return f"{self.candidate}.{self.stage}.{self.seed}.{self.attempt}"

    @property
    def name(self) -> str:
        """The Job's name: a DNS-1123 label of at most 55 characters, so that a pod's index still fits into 63."""
        digest = sha256(canonical([self.run, self.candidate, self.stage, self.seed, self.attempt]))
        return f"{self.run}-{self.candidate.replace('.', '-')}-{digest[:_DIGEST_LENGTH]}"

    def labels(self) -> dict[str, str]:
        """What `of` reads, and what selects the Jobs of a run."""
        return MANAGED | {
            RUN_LABEL: self.run,
            "evolvent/candidate": self.candidate,
            "evolvent/stage": self.stage,
            "evolvent/seed": str(self.seed),
            "evolvent/try": str(self.attempt),
        }
