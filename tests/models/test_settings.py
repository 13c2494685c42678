"""Settings, prices, rate limits."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.errors import Refused
from evolvent.models import LocalLimiter, Message, ModelRequest, ModelSettings, PromptRef
from evolvent.models.limiter import Bucket
from evolvent.models.prices import load_prices, price_of
from evolvent.models.tokens import estimate, worst_case
from evolvent_schemas.values import sha256

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVOLVENT_MODEL_API_KEY", "OPENAI_API_KEY", "EVOLVENT_MODEL_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_our_own_key_wins_over_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "fallback")
    assert "fallback" == ModelSettings.load().api_key.get_secret_value()
    monkeypatch.setenv("EVOLVENT_MODEL_API_KEY", "own")
    assert "own" == ModelSettings.load().api_key.get_secret_value()


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVENT_MODEL_API_KEY", "")
    monkeypatch.setenv("OPENAI_API_KEY", "fallback")
    assert "fallback" == ModelSettings.load().api_key.get_secret_value()


def test_several_models_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVENT_MODEL_NAME", "a, b,,c ")
    assert ("a", "b", "c") == ModelSettings.load().names


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "ftp://host/v1"),
        ("base_url", "http://"),
        ("base_url", f"http://user:{KEY}@host/v1"),
        ("api_key", f"{KEY}\n{KEY}"),
        ("api_key", f"{KEY}é"),
        ("total_seconds", f"{KEY}"),
        ("no_such_setting", KEY),
    ],
)
def test_an_invalid_setting_is_named_and_never_shown(field: str, value: str) -> None:
    with pytest.raises(Refused, match=field) as caught:
        ModelSettings.load(**{field: value})
    assert KEY not in str(caught.value)


def test_a_stand_in_for_a_key_is_not_taken_out_of_texts() -> None:
    assert "none of them" == ModelSettings.load(api_key="none").redact("none of them")
    assert "[redacted]!" == ModelSettings.load(api_key=KEY).redact(f"{KEY}!")


def test_the_users_prices_override_single_models(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('"gpt-4o" = { input = 1, output = 2 }\n"local" = { input = 0, output = 0 }\n')
    prices = load_prices(path)

    assert 1 == prices["gpt-4o"].input
    assert 0 == prices["local"].usd(10**6, 10**6)
    assert load_prices()["gpt-4o-mini"] == prices["gpt-4o-mini"]


@pytest.mark.parametrize("text", ["not toml", '"a" = 3', '"a" = { input = -1, output = 2 }', '"a" = { input = 1 }'])
def test_an_unusable_prices_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(Refused, match=r"prices\.toml"):
        load_prices(path)


def test_a_missing_prices_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="EVOLVENT_MODEL_PRICES"):
        load_prices(tmp_path / "none.toml")


def test_a_dated_release_costs_what_its_model_costs() -> None:
    prices = load_prices()
    assert prices["gpt-5-mini"] == price_of(prices, "gpt-5-mini-2025-08-07")
    assert prices["claude-sonnet-4-5"] == price_of(prices, "claude-sonnet-4-5-20250929")
    assert price_of(prices, "gpt-5-mini-turbo") is None


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens(text: str, more: str) -> None:
    assert estimate(text) <= estimate(text + more) <= estimate(text) + estimate(more)


def test_the_worst_case_covers_prompt_schema_and_longest_answer() -> None:
    request = ModelRequest(
        model="m",
        messages=(Message(role="user", text="x" * 100),),
        max_tokens=1000,
        prompt=PromptRef(name="n", version="1", digest=sha256(b"")),
    )
    wider = request.model_copy(update={"answer_schema": {"type": "object"}})

    assert 50 + 8 + 1000 == worst_case(request)
    assert worst_case(wider) > worst_case(request)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), min_size=1, max_size=50))
def test_a_bucket_never_gives_more_than_its_rate(steps: list[tuple[float, float]]) -> None:
    """Whatever is granted by a time is at most the burst and what has flowed in until then."""
    bucket, now, taken = Bucket(60.0), 0.0, 0.0
    for pause, amount in steps:
        now += pause
        taken += amount
        granted_at = now + bucket.take(amount, now)
        assert taken <= 60.0 + granted_at * 1.0 + 1e-6


def test_a_long_rest_earns_no_more_than_a_minutes_worth() -> None:
    bucket = Bucket(60.0)
    bucket.take(1, 0.0)
    assert 60.0 == bucket.take(120, 3600.0)


def test_whoever_comes_too_early_waits_in_order() -> None:
    bucket = Bucket(60.0)
    assert [0.0, 10.0, 20.0] == [bucket.take(amount, 0.0) for amount in (60, 10, 10)]


async def test_a_cancelled_wait_gives_its_slot_back() -> None:
    limiter = LocalLimiter(requests_per_minute=1, monotonic=lambda: 0.0)
    await limiter.slot("m", 1)
    waiting = asyncio.create_task(limiter.slot("m", 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert 60 == limiter._bucket("m", "requests", 1).take(1, 0.0)


async def test_the_limits_of_one_model_do_not_hold_up_another() -> None:
    limiter = LocalLimiter(requests_per_minute=1, monotonic=lambda: 0.0)
    async with asyncio.timeout(1):
        await limiter.slot("a", 1)
        await limiter.slot("b", 1)


async def test_tokens_are_paced() -> None:
    limiter = LocalLimiter(tokens_per_minute=6000)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for tokens in (6000, 20):
        await limiter.slot("m", tokens)
    assert loop.time() - begun >= 0.19
