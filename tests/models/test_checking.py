"""What doctor says about models, against a real server."""

import asyncio
from typing import Any

import pytest

from evolvent.checks import Check
from evolvent.models.checking import checks
from tests.models.scripted import Fails, says_json, scripted


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "EVOLVENT_MODEL_API_KEY", "EVOLVENT_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


async def found(monkeypatch: pytest.MonkeyPatch, *steps: Any, **settings: str) -> list[Check]:
    async with scripted(*steps, models=("gpt-4o",)) as server:
        for name, value in {"base_url": server.base_url, **settings}.items():
            monkeypatch.setenv(f"EVOLVENT_MODEL_{name.upper()}", value)
        return await asyncio.to_thread(checks)


async def test_nothing_is_asked_where_no_model_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ["ok"] == [check.verdict for check in await found(monkeypatch)]


async def test_half_a_set_up_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = await found(monkeypatch, name="gpt-4o")
    assert "warn" == check.verdict
    assert "EVOLVENT_MODEL_API_KEY" in check.seen


async def test_each_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = says_json({"word": "ready"})
    first, second = await found(monkeypatch, ready, ready, name="gpt-4o,other", api_key="k")

    assert ("model gpt-4o", "ok") == (first.name, first.verdict)
    assert ("model other", "warn") == (second.name, second.verdict)
    assert "no price" in second.seen
    assert "not in the endpoint's own list" in second.seen


async def test_a_model_that_refuses_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = await found(monkeypatch, Fails(401), name="gpt-4o", api_key="k")
    assert "fail" == check.verdict
    assert "EVOLVENT_MODEL_API_KEY" in check.seen


async def test_an_endpoint_that_is_not_there_is_to_be_started_or_named_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (check,) = await found(monkeypatch, name="gpt-4o", api_key="k", base_url="http://127.0.0.1:9/v1")
    assert ("fail", "start it, or correct EVOLVENT_MODEL_BASE_URL") == (check.verdict, check.mend)
    assert "http://127.0.0.1:9/v1" in check.seen
