"""The subject grammar, the only module that spells a subject.

evo.<run>.<entity>.<fact>[.<key…>]     a fact; one subject holds one fact for ever
blob.<sha256>.<n>                      chunk n of an artifact
dead.<role>.<sequence>                 a message that no handler could take, with its original bytes
snapshot.<fold>.<run>                  a folded state; a cache
limit.<endpoint and model>             what is left of a model's rate limits; not truth, kept while it is used
purse.<run>.<round>                    what calls in flight may spend of a round's grant; not truth either
progress.<run>.<experiment…>           training progress; not truth, kept for a limited time
result.<run>.<experiment…>             what an experiment's pod says it measured; evidence, for the engineer to judge
"""

import re
from dataclasses import dataclass

ALL_FACTS = "evo.>"
ALL_BLOBS = "blob.>"
ALL_DEAD = "dead.>"
ALL_SNAPSHOTS = "snapshot.>"
ALL_LIMITS = "limit.>"
ALL_PURSES = "purse.>"
ALL_PROGRESS = "progress.>"
ALL_RESULTS = "result.>"

_FACT = re.compile(r"^evo\.([a-z0-9-]+)\.([a-z]+\.[a-z]+)(?:\.([A-Za-z0-9._-]+))?$")
_OF_A_ROUND = re.compile(r"^evo\.[a-z0-9-]+\.(?:round|context|knowledge|candidate|experiment)\.[a-z]+\.(h?\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Address:
    """A fact's subject, taken apart."""

    run: str
    type: str
    key: str


def fact(run: str, type_: str, key: str = "") -> str:
    """Spell the subject of a fact."""
    return f"evo.{run}.{type_}.{key}" if key else f"evo.{run}.{type_}"


def parse(subject: str) -> Address:
    """Take the subject of a fact apart.

    Raises:
        ValueError: it is none.
    """
    match = _FACT.match(subject)
    if match is None:
        raise ValueError(f"{subject!r} is not the subject of a fact")
    return Address(match[1], match[2], match[3] or "")


def pattern(type_: str, *, keyed: bool, run: str = "*") -> str:
    """Spell the filter that selects every fact of a type, in one run or in all."""
    return fact(run, type_, ">" if keyed else "")


def of_run(run: str) -> str:
    return f"evo.{run}.>"


def blob(digest: str, chunk: int) -> str:
    return f"blob.{digest}.{chunk}"


def dead(role: str, sequence: int) -> str:
    return f"dead.{role}.{sequence}"


def snapshot(fold: str, run: str) -> str:
    return f"snapshot.{fold}.{run}"


def limit(digest: str) -> str:
    return f"limit.{digest}"


def purse(run: str, number: str) -> str:
    return f"purse.{run}.{number}"


def progress(run: str, experiment: str = ">") -> str:
    """Spell where one experiment tells its progress, or the filter for all of a run."""
    return f"progress.{run}.{experiment}"


def result(run: str, experiment: str) -> str:
    return f"result.{run}.{experiment}"


def round_of(subject: str) -> str | None:
    """Tell which round a fact's subject belongs to; none for facts beside the ring."""
    match = _OF_A_ROUND.match(subject)
    return match[1] if match else None
