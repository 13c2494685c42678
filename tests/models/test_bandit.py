"""UCB1 over models."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolvent.models import Arm, choose, finished, started

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
GAINS = st.floats(allow_nan=True, allow_infinity=True)


@given(NAMES, st.lists(GAINS, min_size=8, max_size=8), st.booleans())
def test_every_arm_is_tried_before_any_is_tried_twice(names: list[str], gains: list[float], ends: bool) -> None:
    arms = dict.fromkeys(names, Arm())
    order = []
    for gain in gains[: len(names)]:
        order.append(choose(arms))
        arms = started(arms, order[-1])
        if ends:
            arms = finished(arms, order[-1], improvement=gain, usd=0.01)
    assert names == order


@given(NAMES, st.integers(1, 60))
def test_every_choice_counts_as_a_visit(names: list[str], rounds: int) -> None:
    """The original's sampler never counted while the sum was 0, and so stayed random for ever."""
    arms = dict.fromkeys(names, Arm())
    for done in range(rounds):
        assert done == sum(arm.started for arm in arms.values())
        arms = started(arms, choose(arms))


@given(NAMES, st.integers(8, 80))
def test_without_any_gain_the_visits_stay_even(names: list[str], rounds: int) -> None:
    arms = dict.fromkeys(names, Arm())
    for _ in range(rounds):
        arms = started(arms, choose(arms))
    visits = [arm.started for arm in arms.values()]
    assert max(visits) - min(visits) <= 1


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.builds(Arm, started=st.integers(1, 99), gain=st.floats(0, 1e3)), min_size=1
    )
)
@example({"a": Arm(started=50, gain=5), "b": Arm(started=5, gain=0.45)})
def test_the_unit_of_the_score_does_not_matter(arms: dict[str, Arm]) -> None:
    scaled = {model: arm.model_copy(update={"gain": arm.gain * 1024}) for model, arm in arms.items()}
    assert choose(arms) == choose(scaled)


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.builds(Arm, started=st.integers(0, 99), gain=st.floats(0, 1e300)), min_size=1
    )
)
def test_a_choice_is_one_of_the_arms_and_always_the_same(arms: dict[str, Arm]) -> None:
    assert choose(arms) in arms
    assert choose(arms) == choose(dict(arms))


def test_the_better_model_is_asked_most_and_the_other_never_forgotten() -> None:
    arms = {"weak": Arm(), "strong": Arm()}
    for _ in range(400):
        model = choose(arms)
        arms = finished(started(arms, model), model, improvement=1.0 if model == "strong" else 0.1)
    assert arms["strong"].started > 350
    assert arms["weak"].started > 5


def test_improvement_is_weighed_by_money_when_all_cost_some() -> None:
    arms = {"dear": Arm(started=50, gain=10, usd=100), "cheap": Arm(started=50, gain=5, usd=1)}
    assert "cheap" == choose(arms)
    assert "dear" == choose(arms, per="call")


def test_a_model_without_a_price_makes_the_rates_per_call() -> None:
    assert "free" == choose({"dear": Arm(started=50, gain=5, usd=1), "free": Arm(started=50, gain=10)})


@given(st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0]))
def test_no_gain_is_booked_for_a_loss_or_no_number(improvement: float) -> None:
    arms = finished({"a": Arm(started=1)}, "a", improvement=improvement, usd=0.5)
    assert Arm(started=1, gain=0, usd=0.5) == arms["a"]


def test_no_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="no model"):
        choose({})
