"""How a run names its models, and what is refused before it starts."""

import pytest

from evolvent.errors import Refused
from evolvent.models.wishes import Wishes, check_key
from evolvent_schemas.values import Budget


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "EVOLVENT_MODEL_API_KEY", "EVOLVENT_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVENT_MODEL_API_KEY", "k")


def test_a_run_without_models_asks_for_none() -> None:
    assert not Wishes().options(Budget(usd=1000.0), here=True).get("models")


def test_a_named_model_designs_and_words_the_lessons(key: None) -> None:
    options = Wishes(models=("a", "b")).options(Budget(), here=True)
    assert ("llm", ("a", "b"), "llm") == tuple(options[name] for name in ("proposer", "models", "lessons"))


def test_a_model_may_only_analyze(key: None) -> None:
    options = Wishes("operators", ("a",), lessons="llm").options(Budget(), here=True)
    assert ("operators", "llm") == (options["proposer"], options["lessons"])


def test_what_decides_an_answer_is_fixed_when_the_run_starts(key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVENT_MODEL_MAX_TOKENS", "77")
    monkeypatch.setenv("EVOLVENT_MODEL_TEMPERATURE", "0.5")
    options = Wishes("llm", ("a",)).options(Budget(), here=True)
    assert (77, 0.5) == (options["max_tokens"], options["temperature"])


def test_a_missing_key_is_refused_where_the_calls_are_made() -> None:
    with pytest.raises(Refused, match="EVOLVENT_MODEL_API_KEY"):
        Wishes("llm", ("a",)).options(Budget(), here=True)
    assert ("a",) == Wishes("llm", ("a",)).options(Budget(), here=False)["models"]


def test_a_missing_model_is_refused(key: None) -> None:
    for here in (True, False):
        with pytest.raises(Refused, match="EVOLVENT_MODEL_NAME"):
            Wishes("llm").options(Budget(), here=here)


def test_a_budget_in_money_needs_prices(key: None) -> None:
    with pytest.raises(Refused, match="unheard-of has no price"):
        Wishes(models=("gpt-4o", "unheard-of")).options(Budget(usd=1000.0), here=True)
    assert Wishes(models=("gpt-4o",)).options(Budget(usd=1000.0), here=True)


@pytest.mark.parametrize("budget", [{"tokens": 60 * 16_384}, {"usd": 60 * 0.16}])
def test_a_budget_whose_share_of_a_round_pays_for_no_answer_is_refused(key: None, budget: dict[str, float]) -> None:
    """60 rounds, answers of at most 16,384 tokens at 10 USD a million."""
    with pytest.raises(Refused, match="lower --rounds or EVOLVENT_MODEL_MAX_TOKENS"):
        Wishes(models=("gpt-4o",)).options(Budget.model_validate(budget), here=True)


def test_a_run_that_goes_on_needs_the_key_again() -> None:
    check_key(())
    with pytest.raises(Refused, match="EVOLVENT_MODEL_API_KEY"):
        check_key(("a",))
