"""Whole runs with models over real HTTP: every misbehaviour has one named outcome and correct bookkeeping."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvent import audit, runs
from evolvent.embedded import Server as Nats
from evolvent.platform import open_platform
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_researcher.edits import written_file
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    CandidateScreened,
    EffectRecorded,
    HandlingFailed,
    RoundClosed,
    RoundExhausted,
    RunFinished,
    RunPaused,
    RunSteered,
    Steer,
)
from evolvent_schemas.values import Cost
from tests.cli.shell import evolvent
from tests.e2e.designs import (
    MODEL,
    TASK,
    Model,
    begin,
    design,
    designs_of,
    ends,
    facts,
    hosted,
    of,
    paid,
    returning,
)
from tests.models.scripted import Cuts, Fails, Hangs, Refuses, Says, Server, Streams, chunk, scripted

KEY = "sk-0123456789-not-for-others"
UNUSABLE = design("no block at all")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once where the endpoint names no time; nothing else about the client is changed."""
    for module in ("evolvent.models.faults", "evolvent.models.endpoint"):
        monkeypatch.setattr(f"{module}.DEFAULT_DELAY", 0.05)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def set_up(server: Server, **more: object) -> None:
        for name, value in {"base_url": server.base_url, "api_key": KEY, **more}.items():
            monkeypatch.setenv(f"EVOLVENT_MODEL_{name.upper()}", str(value))

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    yield set_up


async def carried(
    settings: Settings, endpoint: Any, model: Model, *, more: dict[str, object] | None = None, **options: Any
) -> tuple[list[Any], Server]:
    """Carry a run to its end, and audit it when the endpoint is gone."""
    async with scripted(model, repeat=True) as server:
        endpoint(server, **(more or {}))
        async with hosted(settings) as platform:
            found = await facts(platform, await begin(platform, **options))
    await check(settings, found)
    return found, server


async def check(settings: Settings, found: list[Any]) -> None:
    """Hold what must hold for every run: each recorded answer booked once, each decision reproduced without a model."""
    (finished,) = of(found, RunFinished)
    recorded = paid(found)
    assert (recorded.tokens, pytest.approx(recorded.usd)) == (finished.cost.tokens, finished.cost.usd)
    assert sum((closed.cost for closed in of(found, RoundClosed)), Cost()).tokens == recorded.tokens
    async with open_platform(settings, "audit") as platform:
        replayed = await audit.replay(platform, finished.run, ROLES)
    assert replayed.reproduced, replayed.findings


async def test_a_whole_run_by_a_model(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, model = await carried(settings, endpoint, Model(), rounds=4, lessons="llm", judge=True)
    (finished,) = of(found, RunFinished)
    proposed = of(found, CandidateProposed)[1:]
    analyzed = of(found, CandidateAnalyzed)[1:]

    assert ("completed", 4, 0) == (finished.state, finished.rounds_closed, finished.rounds_failed)
    assert finished.best.score > 0
    assert {f"llm/{MODEL}"} == {fact.proposer for fact in proposed}
    assert {9.0} == {fact.prediction.high for fact in proposed}
    assert ["value rose by 1"] * 4 == [fact.lessons[0].effect for fact in analyzed]
    assert [7] * 4 == [fact.judgement.score for fact in analyzed]
    assert ["lesson used", "judge used"] == ends(analyzed[0].calls)
    assert (12, 12 * 300) == (len(model.calls), finished.cost.tokens)
    assert finished.cost.usd > 0
    assert not any(KEY.encode() in fact.body() for fact in found)


FAULTS: dict[str, tuple[list[Any], list[str], int]] = {
    "429": ([Fails(429, {"Retry-After": "0.1"})], ["design used"], 2),
    "500": ([Fails(500)], ["design used"], 2),
    "cut connection": ([Cuts()], ["design used"], 2),
    "garbage": ([Streams(b"\xff\xfe\x00garbage\n\n")], ["design used"], 2),
    "half an answer": ([Streams(chunk("half of"))], ["design used"], 2),
    "silence": ([Hangs()], ["design used"], 2),
    "slow stream": ([Says(returning(3).text, piece=20, pause=0.02)], ["design used"], 1),
    "refusal": ([Refuses()], ["design refused", "repair used"], 2),
    "cut off at the limit": ([Says("so long", finish="length")], ["design cut", "repair used"], 2),
    "no program": ([UNUSABLE], ["design unusable", "repair used"], 2),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_misbehaviour_has_its_outcome(server: Nats, settings: Settings, endpoint: Any, fault: str) -> None:
    steps, outcome, calls = FAULTS[fault]
    found, model = await carried(settings, endpoint, Model(list(steps)), more={"idle_seconds": 0.4})

    assert outcome == ends(of(found, CandidateProposed)[-1].calls)
    assert calls == len(model.calls)
    assert ["completed", "completed"] == [closed.outcome for closed in of(found, RoundClosed)]


async def test_two_unusable_answers_are_an_attempt_spent(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, model = await carried(settings, endpoint, Model([UNUSABLE, UNUSABLE]))
    proposed = of(found, CandidateProposed)[-1]

    assert "0.1" == proposed.candidate
    assert ["design unusable", "repair unusable", "design used"] == ends(proposed.calls)
    assert "the whole program" in designs_of(model)[-1]


async def test_a_round_without_a_usable_answer_is_exhausted_and_paid_for(
    server: Nats, settings: Settings, endpoint: Any
) -> None:
    found, _ = await carried(settings, endpoint, Model([UNUSABLE] * 6))
    (exhausted,) = of(found, RoundExhausted)

    assert (3, 6 * 300) == (exhausted.attempts, exhausted.cost.tokens)
    assert "no block with a file" in exhausted.reason
    assert "exhausted" == of(found, RoundClosed)[-1].outcome


async def test_a_duplicate_tells_the_next_attempt_what_was_tried(
    server: Nats, settings: Settings, endpoint: Any
) -> None:
    repeated = design(written_file("program.py", "def value():\n    return 0  # as before\n"), motivation="nothing new")
    found, model = await carried(settings, endpoint, Model([repeated]))
    asked = designs_of(model)[-1].partition("# Proposed in this round already")[2]

    assert "0.1" == of(found, CandidateProposed)[-1].candidate
    assert "nothing new" in asked
    assert "## Program 0.0" in asked


async def test_only_what_was_retrieved_counts_as_cited(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, _ = await carried(settings, endpoint, Model([returning(3, cited=["made-up"])]))
    proposed = of(found, CandidateProposed)[-1]

    assert () == proposed.cited
    assert "made-up" in proposed.motivation


async def test_a_lesson_that_cannot_be_had_is_computed_and_says_so(
    server: Nats, settings: Settings, endpoint: Any
) -> None:
    found, _ = await carried(settings, endpoint, Model(lessons=[Refuses(), Refuses()]), lessons="llm")
    analyzed = of(found, CandidateAnalyzed)[-1]

    assert ["lesson refused", "repair refused"] == ends(analyzed.calls)
    assert "value improved" in analyzed.lessons[0].effect
    assert "(computed from the numbers alone: refused" in analyzed.lessons[0].effect


async def test_a_measurement_outlives_an_endpoint_that_is_down(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, _ = await carried(settings, endpoint, Model(lessons=[Fails(503)] * 4), lessons="llm")
    analyzed = of(found, CandidateAnalyzed)[-1]

    assert "measured" == analyzed.outcome
    assert "503" in analyzed.lessons[0].effect


async def test_what_the_user_says_reaches_every_later_design(server: Nats, settings: Settings, endpoint: Any) -> None:
    first = Says(returning(3).text, after=1.0)
    async with scripted(Model([first]), repeat=True) as model:
        endpoint(model)
        async with hosted(settings) as platform:
            run = await begin(platform, rounds=2)
            await runs.issue(platform, run, Steer(text="keep it symmetric"))
            found = await facts(platform, run)
    assert 1 == len(of(found, RunSteered))
    assert "- keep it symmetric" in designs_of(model)[-1]


async def test_a_bandit_tries_every_model(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, _ = await carried(settings, endpoint, Model(), rounds=4, width=2, models=("gpt-4o", "gpt-4o-mini"))
    assert {"llm/gpt-4o", "llm/gpt-4o-mini"} == {fact.proposer for fact in of(found, CandidateProposed)[1:]}
    assert {"llm/gpt-4o", "llm/gpt-4o-mini"} == {fact.proposer for fact in of(found, CandidateProposed)[1:3]}


async def test_a_refused_key_fails_the_round_by_name(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, model = await carried(settings, endpoint, Model([Fails(401)]))
    (failed,) = of(found, HandlingFailed)

    assert ("permanent", 1) == (failed.reason, len(model.calls))
    assert "EVOLVENT_MODEL_API_KEY" in failed.error
    assert KEY not in failed.error


async def test_a_failed_round_books_what_was_paid_before(server: Nats, settings: Settings, endpoint: Any) -> None:
    found, _ = await carried(settings, endpoint, Model([UNUSABLE, UNUSABLE, Fails(401)]))
    (failed,) = of(found, HandlingFailed)

    assert ("permanent", 600) == (failed.reason, failed.cost.tokens)
    assert "role_failed" == of(found, RoundClosed)[-1].outcome


async def test_an_endpoint_that_stays_down_fails_the_round_by_name(
    server: Nats, settings: Settings, endpoint: Any
) -> None:
    found, model = await carried(settings, endpoint, Model([Fails(503)] * 9))
    (failed,) = of(found, HandlingFailed)

    assert ("deliveries", 5) == (failed.reason, len(model.calls))
    assert f"the last with: the model {MODEL!r} at {model.base_url} answered 503" in failed.error


def test_an_endpoint_that_nobody_serves_is_named_to_who_watches(tmp_path: Path) -> None:
    nowhere = {"EVOLVENT_MODEL_BASE_URL": "http://127.0.0.1:9/v1", "EVOLVENT_MODEL_API_KEY": KEY}
    words = ("run", TASK, "--model", "m", "--rounds", "1", "--allow-unsafe-sandbox")
    said = evolvent(*words, cwd=tmp_path, **nowhere, EVOLVENT_MAX_DELIVERIES="1").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("  ! researcher")]
    assert "the model 'm' at http://127.0.0.1:9/v1 cannot be reached: Connection refused" in line


async def test_three_such_rounds_pause_the_run(server: Nats, settings: Settings, endpoint: Any) -> None:
    async with scripted(Model([Fails(401)] * 3), repeat=True) as model:
        endpoint(model)
        async with hosted(settings) as platform:
            run = await begin(platform, rounds=9)
            async for record in platform.log("test").follow([f"evo.{run}.run.paused.>"]):
                assert isinstance(record.fact, RunPaused)
                assert "EVOLVENT_MODEL_API_KEY" in record.fact.message
                break


async def test_a_grant_too_small_for_one_call_fails_the_round_by_its_name(
    server: Nats, settings: Settings, endpoint: Any
) -> None:
    found, model = await carried(settings, endpoint, Model(), tokens=900)
    (failed,) = of(found, HandlingFailed)

    assert ("grant_exceeded", 0) == (failed.reason, len(model.calls))
    assert ["grant_exceeded"] == [fact.reason for fact in of(found, EffectRecorded)]


async def test_a_grant_used_up_ends_the_round_with_what_it_cost(
    server: Nats, settings: Settings, endpoint: Any
) -> None:
    """One call may take some 2,400 tokens and takes 2,000: of 4,000 no repair turn can be paid."""
    costly = Says(UNUSABLE.text, usage=(1900, 100))
    found, model = await carried(settings, endpoint, Model([costly]), tokens=4000)
    (exhausted,) = of(found, RoundExhausted)

    assert (1, 2000) == (len(model.calls), exhausted.cost.tokens)
    assert "grant is used up" in exhausted.reason


async def test_the_task_may_word_the_question_itself(
    server: Nats, settings: Settings, endpoint: Any, tmp_path: Path
) -> None:
    folder = with_prompt(tmp_path, "design", "[user]\nYou are the researcher. Improve $parents\n\n$form")
    found, model = await carried(settings, endpoint, Model([returning(5)]), folder=folder)

    assert "completed" == of(found, RoundClosed)[-1].outcome
    assert designs_of(model)[0].startswith("You are the researcher. Improve ## Program h0.0")


@pytest.mark.parametrize(("name", "text"), [("desing", "[user]\n$form"), ("design", "[user]\n$from $form")])
async def test_an_unusable_prompt_of_the_task_fails_the_round_by_name(
    server: Nats, settings: Settings, endpoint: Any, tmp_path: Path, name: str, text: str
) -> None:
    found, _ = await carried(settings, endpoint, Model(), folder=with_prompt(tmp_path, name, text))
    (failed,) = of(found, HandlingFailed)

    assert "permanent" == failed.reason
    assert f"{name}.txt" in failed.error
    assert "did you mean" in failed.error


def with_prompt(tmp_path: Path, name: str, text: str) -> Path:
    folder = tmp_path / "task"
    shutil.copytree(TASK, folder)
    (folder / "prompts" / "researcher").mkdir(parents=True)
    (folder / "prompts" / "researcher" / f"{name}.txt").write_text(text)
    return folder


async def test_the_first_of_equal_programs_is_the_new_one(server: Nats, settings: Settings, endpoint: Any) -> None:
    """Six rounds at once design the same: five are duplicates of the first in the log, in every replay."""
    found, _ = await carried(
        settings, endpoint, Model([returning(3)] * 6), rounds=6, width=6, attempts=1, models=("gpt-4o",)
    )
    proposed = [fact.candidate for fact in of(found, CandidateProposed)[1:]]
    screened = of(found, CandidateScreened)[1:]

    assert {proposed[0]} == {fact.of for fact in screened if fact.verdict == "duplicate"}
    assert [proposed[0]] == [fact.candidate for fact in screened if fact.verdict == "new"]
