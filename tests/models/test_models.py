"""The client against a real HTTP server that misbehaves by script: one rule each."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from pydantic import Field

from evolvent.errors import BrokenOff, GrantExceeded, Permanent, Refused, Transient
from evolvent.models import (
    Message,
    ModelAnswer,
    ModelRequest,
    ModelSettings,
    PromptRef,
    UnusableAnswer,
    read,
    wanted,
)
from evolvent.models.client import Models
from evolvent_schemas.values import Grant, Value, sha256
from tests.models.scripted import Cuts, Fails, Hangs, Refuses, Says, Server, Streams, chunk, says_json, scripted

KEY = "sk-very-secret-0123456789"
GRANT = Grant(attempts=1, compute_seconds=0)


class Word(Value):
    word: str


def question(text: str = "say a word", *, structured: bool = False, **changes: Any) -> ModelRequest:
    fields = {
        "model": "m",
        "messages": (Message(role="user", text=text),),
        "max_tokens": 100,
        "answer_schema": wanted(Word) if structured else None,
        "prompt": PromptRef(name="test", version="1", digest=sha256(b"")),
    }
    return ModelRequest(**(fields | changes))


@asynccontextmanager
async def models(server: Server, **settings: Any) -> AsyncIterator[Models]:
    defaults = {"base_url": server.base_url, "api_key": KEY, "name": "m"}
    async with Models(ModelSettings.load(**(defaults | settings))) as client:
        yield client


async def ask(*steps: Any, request: ModelRequest | None = None, grant: Grant = GRANT, **settings: Any) -> ModelAnswer:
    async with scripted(*steps) as server, models(server, **settings) as client:
        return await client.complete(request or question(), grant=grant)


async def failing(*steps: Any, error: type[Exception], **settings: Any) -> Any:
    with pytest.raises(error) as caught:
        await ask(*steps, **settings)
    assert type(caught.value) is error
    return caught.value


async def test_a_whole_answer_comes_with_its_counts() -> None:
    answer = await ask(Says("forty-two", usage=(7, 3)), request=question(model="gpt-4o"))

    assert ("forty-two", "answered", "stop") == (answer.text, answer.outcome, answer.finish_reason)
    assert (7, 3, "reported") == (answer.tokens_in, answer.tokens_out, answer.usage)
    assert answer.usd == pytest.approx((7 * 2.5 + 3 * 10) / 1e6)
    assert answer.cost.tokens == 10
    assert "m-2026" == answer.model


async def test_the_request_goes_out_as_it_stands() -> None:
    async with scripted(Says("x")) as server, models(server) as client:
        await client.complete(question(temperature=0.5, seed=7), grant=GRANT)
    body = server.calls[0].body

    assert [{"role": "user", "content": "say a word"}] == body["messages"]
    assert (0.5, 7, 100, True) == (body["temperature"], body["seed"], body["max_tokens"], body["stream"])
    assert "response_format" not in body
    assert "identity" == server.calls[0].headers["Accept-Encoding"]


async def test_the_digest_of_a_request_covers_every_field() -> None:
    changed = [question("other"), question(seed=1), question(temperature=1.0), question(model="n")]
    changed += [question(max_tokens=9), question(structured=True)]

    assert len({request.digest for request in [question(), *changed]}) == 7
    assert question().digest == ModelRequest.model_validate_json(question().model_dump_json()).digest


async def test_retry_after_in_seconds_is_the_delay() -> None:
    error = await failing(Fails(429, {"Retry-After": "17"}), error=Transient)
    assert error.delay == 17


async def test_retry_after_as_a_date_is_measured_from_the_answers_own_date() -> None:
    headers = {"Date": formatdate(1_000_000, usegmt=True), "Retry-After": formatdate(1_000_042, usegmt=True)}
    error = await failing(Fails(429, headers), error=Transient)
    assert error.delay == 42


@pytest.mark.parametrize(
    ("value", "delay"),
    [("-5", 0), ("nan", 5), ("inf", 5), ("soon", 5), ("1e9", 3600), (formatdate(0, usegmt=True), 0)],
)
async def test_a_senseless_retry_after_still_gives_a_delay(value: str, delay: float) -> None:
    error = await failing(Fails(429, {"Retry-After": value}), error=Transient)
    assert error.delay == delay


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 529])
async def test_a_server_in_trouble_is_asked_again_later(status: int) -> None:
    error = await failing(Fails(status), error=Transient)
    assert str(status) in str(error)


async def test_one_failing_call_is_one_request() -> None:
    async with scripted(Fails(500), repeat=True) as server, models(server) as client:
        with pytest.raises(Transient):
            await client.complete(question(), grant=GRANT)
        assert 1 == len(server.calls)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
async def test_a_refused_call_names_the_model_and_the_address(status: int) -> None:
    async with scripted(Fails(status)) as server, models(server) as client:
        with pytest.raises(Permanent, match=rf"'m' at {server.base_url}.*{status}"):
            await client.complete(question(), grant=GRANT)


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (Fails(401), "EVOLVENT_MODEL_API_KEY"),
        (Fails(404, message="model not found"), "EVOLVENT_MODEL_NAME"),
        (Fails(400, code="context_length_exceeded"), "larger context"),
        (Fails(400, message="This model's maximum context length is 8192 tokens"), "larger context"),
        (Fails(400, message="'max_completion_tokens' is too large"), "lower"),
        (Fails(413), "too long"),
        (Fails(429, code="insufficient_quota"), "credit"),
    ],
)
async def test_a_lasting_error_says_what_to_do_next(step: Fails, advice: str) -> None:
    assert advice in str(await failing(step, error=Permanent))


async def test_nobody_listening_is_asked_again_later() -> None:
    async with scripted() as server:
        pass
    async with models(server) as client:
        with pytest.raises(Transient, match=f"{server.base_url} .*Connection refused.* server up"):
            await client.complete(question(), grant=GRANT)


async def test_half_an_answer_is_never_a_whole_one() -> None:
    await failing(Cuts(), error=BrokenOff)
    await failing(Streams(chunk("half of")), error=BrokenOff)
    await failing(Streams(chunk("half of"), b"data: [DONE]\n\n"), error=BrokenOff)
    await failing(Streams(chunk("half of"), b'data: {"error": {"message": "overloaded"}}\n\n'), error=BrokenOff)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00garbage\n\n",
        b"data: {nonsense\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"choices": 3}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"",
    ],
)
async def test_garbage_on_the_wire_is_a_passing_fault(garbage: bytes) -> None:
    await failing(Streams(garbage), error=BrokenOff)


async def test_a_body_without_end_is_given_up() -> None:
    flood = [b"data: " + b"x" * 65_536] * 4
    for step in (Streams(*flood), Fails(500, message="x" * 300_000)):
        assert "no end of it" in str(await failing(step, error=BrokenOff, answer_bytes=1024))


async def test_an_oversized_answer_is_hung_up_on_at_once() -> None:
    endless = Says("x" * 100_000, piece=512, pause=0.02)
    assert "oversized" == (await ask(endless, answer_bytes=1024, total_seconds=1.5)).outcome


async def test_shown_thoughts_are_paid_for_and_no_part_of_the_answer() -> None:
    thought = b'data: {"choices": [{"delta": {"reasoning_content": "%s"}}]}\n\n' % (b"t" * 40)
    answer = await ask(Streams(thought, chunk("word", finish="stop")))
    assert ("word", 22) == (answer.text, answer.tokens_out)


async def test_a_page_instead_of_a_stream_points_at_the_address() -> None:
    error = await failing(Streams(b"<html></html>", content_type="text/html"), error=Permanent)
    assert "EVOLVENT_MODEL_BASE_URL" in str(error)


async def test_silence_is_given_up_after_the_idle_time() -> None:
    await failing(Hangs(), error=BrokenOff, idle_seconds=0.2)
    await failing(Says("late", after=30), error=BrokenOff, idle_seconds=0.2)


async def test_a_slow_stream_is_given_up_after_the_total_time() -> None:
    slow = Says("x" * 100, piece=1, pause=0.05)
    await failing(slow, error=BrokenOff, idle_seconds=5, total_seconds=0.4)


async def test_a_slow_stream_within_its_times_is_heard_out() -> None:
    assert "x" * 8 == (await ask(Says("x" * 8, piece=1, pause=0.05), idle_seconds=0.3)).text


async def test_a_cancelled_call_hangs_up() -> None:
    async with scripted(Hangs()) as server, models(server) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.complete(question(), grant=GRANT)
        async with asyncio.timeout(5):
            await server.idle.wait()


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (Refuses(), "refused"),
        (Says(""), "empty"),
        (Says(" \n"), "empty"),
        (Says("half of", finish="length"), "cut"),
        (Says("half of", finish="surprise"), "cut"),
        (Says("", finish="length"), "cut"),
        (Says("", finish="content_filter"), "filtered"),
        (Says("x" * 5000), "oversized"),
    ],
)
async def test_an_unusable_answer_is_named_and_paid_for(step: Any, outcome: str) -> None:
    answer = await ask(step, answer_bytes=1024)

    assert outcome == answer.outcome
    assert answer.complaint
    assert answer.tokens_in > 0
    with pytest.raises(UnusableAnswer) as caught:
        read(answer, Word)
    assert outcome == caught.value.outcome


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"word": "a",}', "line 1"),
        ("no object at all", "no JSON object"),
        ('[{"word": "a"}]', "JSON list"),
        ('{"word": NaN}', "not valid"),
        ('{"word": "a"} {"word": "b"}', "not valid"),
        ('```json\n{"word": "a"}\n```\n```json\n{"word": "b"}\n```', "2 ```json blocks"),
        ("{" * 3000, "not valid"),
    ],
)
async def test_garbage_instead_of_json_says_what_is_wrong(text: str, complaint: str) -> None:
    answer = await ask(Says(text), request=question(structured=True))

    assert "garbled" == answer.outcome
    assert complaint in answer.complaint


@pytest.mark.parametrize(
    "text",
    ['{"word": "a"}', '```json\n{"word": "a"}\n```', 'Here you are:\n{"word": "a"}\nDone.', ' \n{"word": "a"}\n'],
)
async def test_json_is_found_in_fences_and_prose(text: str) -> None:
    answer = await ask(Says(text), request=question(structured=True))
    assert Word(word="a") == read(answer, Word)


async def test_json_of_another_shape_names_the_field() -> None:
    answer = await ask(says_json({"wrd": "a"}), request=question(structured=True))
    with pytest.raises(UnusableAnswer, match=r"word: Field required\n- wrd: Extra"):
        read(answer, Word)


async def test_a_schema_is_sent_strict() -> None:
    async with scripted(says_json({"word": "a"})) as server, models(server) as client:
        await client.complete(question(structured=True), grant=GRANT)
    sent = server.calls[0].body["response_format"]["json_schema"]

    assert sent["strict"]
    assert {"word"} == set(sent["schema"]["required"])
    assert sent["schema"]["additionalProperties"] is False


def test_a_field_may_be_named_like_a_keyword() -> None:
    class Odd(Value):
        title: str = Field(default="", max_length=3)
        default: tuple[int, ...] = Field(default=(), max_length=2)

    schema = wanted(Odd)
    assert schema["required"] == ["title", "default"]
    assert '"properties": {"title": {"type": "string"}, "default": {' in json.dumps(schema)
    assert "maxLength" not in json.dumps(schema)


async def test_an_endpoint_without_schemas_is_told_in_words_and_remembered() -> None:
    answer = says_json({"word": "a"})
    async with scripted(answer, repeat=True, lacks=["response_format"]) as server, models(server) as client:
        for _ in range(2):
            assert Word(word="a") == read(await client.complete(question(structured=True), grant=GRANT), Word)

    assert [True, False, False] == ["response_format" in call.body for call in server.calls]
    assert "JSON Schema" in server.calls[1].body["messages"][-1]["content"]


async def test_what_one_model_lacks_is_not_held_against_another() -> None:
    async with scripted(says_json({}), repeat=True, lacks=["response_format"]) as server, models(server) as client:
        for model in ("m", "n"):
            await client.complete(question(structured=True, model=model), grant=GRANT)
    assert [True, False, True, False] == ["response_format" in call.body for call in server.calls]


async def test_an_endpoint_that_never_counts_is_estimated_high() -> None:
    answer = await ask(Says("0123456789", usage=None))

    assert "estimated" == answer.usage
    assert 5 == answer.tokens_out
    assert answer.tokens_in >= 5


async def test_an_endpoint_without_stream_options_still_answers() -> None:
    async with scripted(Says("x"), lacks=["stream_options"]) as server, models(server) as client:
        assert "estimated" == (await client.complete(question(), grant=GRANT)).usage


async def test_a_senseless_usage_counts_as_none() -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": null}}\n\n'
    answer = await ask(Streams(chunk("a word", finish="stop"), usage, b"data: [DONE]\n\n"))
    assert "estimated" == answer.usage


async def test_the_newer_name_of_the_limit_is_used_where_the_older_is_refused() -> None:
    def modern(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return Fails(400, message="Unsupported parameter: use 'max_completion_tokens' instead")
        return Says(str(body["max_completion_tokens"]))

    async with scripted(modern, repeat=True) as server, models(server) as client:
        assert "100" == (await client.complete(question(), grant=GRANT)).text
        await client.complete(question(), grant=GRANT)
    assert 3 == len(server.calls)


async def test_a_call_beyond_the_tokens_left_is_never_made() -> None:
    async with scripted(Says("x")) as server, models(server) as client:
        with pytest.raises(GrantExceeded, match="110 are left"):
            await client.complete(question("w" * 40), grant=GRANT.model_copy(update={"tokens": 110}))
        assert [] == server.calls


async def test_a_call_within_the_tokens_left_is_made() -> None:
    worst = 10 + 8 + 100
    answer = await ask(Says("x"), request=question("w" * 20), grant=GRANT.model_copy(update={"tokens": worst}))
    assert "x" == answer.text


async def test_a_call_beyond_the_money_left_is_never_made() -> None:
    async with scripted(Says("x")) as server, models(server) as client:
        with pytest.raises(GrantExceeded, match=r"may cost 0\.00"):
            await client.complete(question(model="gpt-4o"), grant=GRANT.model_copy(update={"usd": 1e-6}))
        assert [] == server.calls


async def test_a_model_without_a_price_is_refused_when_money_is_granted() -> None:
    error = await failing(Says("x"), error=GrantExceeded, grant=GRANT.model_copy(update={"usd": 100.0}))
    assert "EVOLVENT_MODEL_PRICES" in str(error)


async def test_a_model_without_a_price_costs_nothing_known() -> None:
    assert (await ask(Says("x"))).usd is None


async def test_the_key_travels_in_its_header_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(Says("x")) as server, models(server) as client:
        await client.complete(question(), grant=GRANT)
    call = server.calls[0]

    assert f"Bearer {KEY}" == call.headers["Authorization"]
    assert KEY not in json.dumps({name: value for name, value in call.headers.items() if name != "Authorization"})
    assert KEY.encode() not in call.raw
    assert KEY not in caplog.text
    assert KEY not in repr(client.settings)


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_a_key_echoed_in_an_error_is_redacted(status: int) -> None:
    with pytest.raises((Permanent, Transient)) as caught:
        await ask(Fails(status, message=f"bad key {KEY}"))

    assert "[redacted]" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_key_echoed_in_an_answer_is_redacted() -> None:
    answer = await ask(says_json({"word": KEY}, piece=4), request=question(structured=True))
    assert KEY not in answer.model_dump_json()


async def test_surrogates_cut_in_two_are_joined() -> None:
    halves = [b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % half for half in (rb"\ud83d", rb"\ude00")]
    assert "😀" == (await ask(Streams(*halves, chunk(finish="stop")))).text
    assert "�" == (await ask(Streams(halves[0], chunk(finish="stop")))).text


async def test_no_more_calls_are_in_flight_than_allowed() -> None:
    async with scripted(Says("x", after=0.05), repeat=True) as server, models(server, concurrency=2) as client:
        await asyncio.gather(*(client.complete(question(), grant=GRANT) for _ in range(6)))
    assert (2, 6) == (server.most_in_flight, len(server.calls))


async def test_the_limiter_is_asked_before_each_call_with_the_worst_case() -> None:
    asked: list[tuple[str, int]] = []

    class Watching:
        async def slot(self, model: str, tokens: int) -> None:
            asked.append((model, tokens))

    async with scripted(Says("x")) as server:
        settings = ModelSettings.load(base_url=server.base_url, api_key=KEY, name="m")
        async with Models(settings, limiter=Watching()) as client:
            await client.complete(question("w" * 20), grant=GRANT)
    assert [("m", 118)] == asked


@pytest.mark.parametrize(
    ("missing", "advice"), [("api_key", "EVOLVENT_MODEL_API_KEY"), ("name", "EVOLVENT_MODEL_NAME")]
)
async def test_a_missing_key_or_model_is_refused_before_anything_is_sent(missing: str, advice: str) -> None:
    given = {"base_url": "http://127.0.0.1:9/v1", "api_key": KEY, "name": "m"} | {missing: ""}
    with pytest.raises(Refused, match=advice):
        Models(ModelSettings.load(**given))


async def test_a_probe_reports_a_ready_model() -> None:
    async with scripted(says_json({"word": "ready"})) as server, models(server) as client:
        probe = await client.probe()

    assert (True, True, True, "") == (probe.reachable, probe.listed, probe.structured, probe.problem)
    assert probe.latency_seconds > 0


async def test_a_probe_reports_what_an_endpoint_lacks() -> None:
    answer = says_json({"word": "ready"})
    async with scripted(answer, lacks=["response_format"], models=None) as server, models(server) as client:
        probe = await client.probe()
    assert (True, None, False) == (probe.reachable, probe.listed, probe.structured)


async def test_a_probe_reports_a_wrong_key_and_an_unknown_model() -> None:
    async with scripted(Fails(401), models=("other",)) as server, models(server) as client:
        probe = await client.probe()
    assert (True, False, None) == (probe.reachable, probe.listed, probe.structured)
    assert "EVOLVENT_MODEL_API_KEY" in probe.problem


async def test_a_probe_reports_an_unreachable_endpoint() -> None:
    async with scripted() as server:
        pass
    async with models(server) as client:
        probe = await client.probe()
    assert not probe.reachable
    assert probe.problem
