"""What samplers promise, each rule one that the originals broke."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent import population
from evolvent.population import ELITE, Population
from evolvent_researcher.samplers import SAMPLERS
from evolvent_schemas import CandidateAnalyzed, CandidateProposed, ContextSampled, RunStarted
from evolvent_schemas.values import Choice, Objective, Program, ProgramSpec, RunSettings, TaskSpec

SPEC = TaskSpec(name="t", title="t", objective=Objective(metric="m"), program=ProgramSpec(functions=("f",)))
STARTED = RunStarted(run="r1", settings=RunSettings(task=SPEC, bundle="0" * 64, seed=1), user="u")


def measured(scores: list[float | None]) -> Population:
    """A population with these scores; none is a candidate that failed."""
    state = population.step(Population(), STARTED)
    for number, score in enumerate(scores):
        program = Program.of({"program.py": f"x = {number}\n"})
        name = f"{number}.0"
        proposed = CandidateProposed(run="r1", candidate=name, program=program, proposer="p", motivation="m")
        state = population.step(population.step(state, proposed), analyzed(name, score))
    return state


def analyzed(name: str, score: float | None) -> CandidateAnalyzed:
    outcome = "failed" if score is None else "measured"
    return CandidateAnalyzed.model_validate(
        {"run": "r1", "candidate": name, "stage": "explore", "outcome": outcome, "score": score, "fitness": score}
    )


def visited(state: Population, name: str) -> Population:
    chosen = (Choice(candidate=name, weight=0.0),)
    fact = ContextSampled(run="r1", round="0", parents=chosen, sampler="ucb1", seed=0, pool=len(state.measured))
    return population.step(state, fact)


def choose(state: Population, sampler: str, count: int = 1, seed: int = 0) -> list[str]:
    return [choice.candidate for choice in SAMPLERS[sampler](state, count, random.Random(seed))]


SCORES = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=40)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(scores=SCORES, count=st.integers(1, 8), seed=st.integers(0, 99))
def test_only_measured_candidates_are_chosen_and_none_twice(sampler: str, scores, count: int, seed: int) -> None:
    state = measured(scores)
    chosen = choose(state, sampler, count, seed)

    assert len(chosen) == len(set(chosen)) == min(count, sum(score is not None for score in scores))
    assert set(chosen) <= {f"{number}.0" for number, score in enumerate(scores) if score is not None}


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(scores=SCORES, seed=st.integers(0, 99))
def test_a_choice_repeats_for_the_same_population_and_seed(sampler: str, scores, seed: int) -> None:
    assert choose(measured(scores), sampler, 3, seed) == choose(measured(scores), sampler, 3, seed)


def test_ucb1_counts_its_visits_from_the_very_first_choice() -> None:
    """The original samples at random, without counting, for as long as the sum of visits is 0: that is, for ever."""
    state = measured([1.0, 0.9])
    first = choose(state, "ucb1")
    for _ in range(4):
        state = visited(state, first[0])

    assert ["0.0"] == first
    assert ["1.0"] == choose(state, "ucb1")


def test_ucb1_visits_everybody_and_the_better_more_often() -> None:
    state = measured([0.0, 0.5, 1.0])
    counts: Counter[str] = Counter()
    for _ in range(60):
        (name,) = choose(state, "ucb1")
        counts[name] += 1
        state = visited(state, name)

    assert counts["2.0"] > counts["1.0"] > counts["0.0"] > 0


def test_greedy_takes_the_best_and_on_equal_scores_the_first() -> None:
    assert ["1.0", "2.0", "0.0"] == choose(measured([0.1, 0.7, 0.7, None]), "greedy", 3)


def test_random_gives_everybody_the_same_chance() -> None:
    state = measured([0.0, None, 1.0, 2.0])
    counts = Counter(choose(state, "random", seed=seed)[0] for seed in range(3000))

    assert {"0.0", "2.0", "3.0"} == set(counts)
    assert all(800 < count < 1200 for count in counts.values())


@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=150))
def test_the_elite_are_the_best_in_order_and_bounded(scores) -> None:
    state = measured(scores)
    ranked = sorted(range(len(scores)), key=lambda number: (-scores[number], number))

    assert tuple(f"{number}.0" for number in ranked[:ELITE]) == state.elite


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_cannot_become_a_fact(score: float) -> None:
    """In the original a NaN passes `score <= best`, becomes the best, and every later node is best."""
    with pytest.raises(ValueError, match="finite"):
        analyzed("0.0", score)
