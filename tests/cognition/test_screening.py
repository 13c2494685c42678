"""What screening calls a repetition."""

import pytest

from evolvent.journal import Effects
from evolvent.log import Record
from evolvent.platform import Platform
from evolvent_cognition.handlers import on_proposed
from evolvent_cognition.memory import FOLD
from evolvent_cognition.novelty import fingerprint
from evolvent_schemas import CandidateProposed, CandidateScreened
from evolvent_schemas.values import Program

PROGRAM = "def f(n):\n    return [0.5] * n\n"
SAME = {
    "layout": "def f( n ):\n\n    return [ 0.5 ]*n\n",
    "comments": "# once\ndef f(n):  # more\n    return [0.5] * n\n",
    "documentation": 'def f(n):\n    """Say it."""\n    return [0.5] * n\n',
    "last digits": "def f(n):\n    return [0.50000001] * n\n",
}
OTHER = {
    "a number": "def f(n):\n    return [0.51] * n\n",
    "a name that a caller sees": "def f(m):\n    return [0.5] * m\n",
    "a statement": "def f(n):\n    n += 1\n    return [0.5] * n\n",
}


def of(text: str) -> str:
    return fingerprint({"program.py": text})


@pytest.mark.parametrize("name", SAME)
def test_programs_that_differ_in_looks_alone_are_the_same(name: str) -> None:
    assert of(PROGRAM) == of(SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_programs_that_can_behave_differently_are_not(name: str) -> None:
    assert of(PROGRAM) != of(OTHER[name])


async def verdicts(platform: Platform, *candidates: str) -> list[tuple[str, str | None]]:
    """Screen the same program proposed under each of these names, before any of them is screened."""
    log, state, records = platform.log("researcher"), FOLD.state(), []
    for name in candidates:
        program = Program.of({"program.py": PROGRAM})
        fact = CandidateProposed(run="r1", candidate=name, program=program, proposer="p", motivation="m")
        records.append(await log.append(fact))
    found = []
    for record in records:
        state = FOLD.advance(state, record)
        found.append(await screened(platform, record, state))
    return found


async def screened(platform: Platform, record: Record, state) -> tuple[str, str | None]:
    (fact,) = await on_proposed(record, state, Effects(platform.log("cognition"), platform.artifacts, record))
    assert isinstance(fact, CandidateScreened)
    return fact.verdict, fact.of


async def test_of_equal_programs_the_first_in_the_log_is_new(platform: Platform) -> None:
    assert [("new", None), ("duplicate", "1.0")] == await verdicts(platform, "1.0", "0.0")


async def test_the_baseline_is_measured_also_where_a_user_submitted_the_same_before(platform: Platform) -> None:
    assert [("new", None), ("new", None)] == await verdicts(platform, "h1.0", "h0.0")
