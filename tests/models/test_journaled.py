"""A model's answer on the log: asked once, paid once, replayed without a model."""

from typing import Any

import pytest

from evolvent.errors import CodeChanged, Permanent, Refused, Transient
from evolvent.journal import EffectFailed, Effects
from evolvent.models import Message, ModelRequest, ModelSettings, PromptRef
from evolvent.models.client import Models
from evolvent.models.journaled import asked
from evolvent.platform import Platform
from evolvent_schemas import EffectRecorded
from evolvent_schemas.values import Grant, sha256
from tests.models.scripted import Fails, Refuses, Says, Server, scripted
from tests.platform.facts import sampled

GRANT = Grant(attempts=1, compute_seconds=0)
REQUEST = ModelRequest(
    model="gpt-4o",
    messages=(Message(role="user", text="say a word"),),
    max_tokens=100,
    prompt=PromptRef(name="test", version="1", digest=sha256(b"")),
)


@pytest.fixture
async def effects(platform: Platform) -> Effects:
    log = platform.log("researcher")
    return Effects(log, platform.artifacts, await log.append(sampled()))


async def recorded(effects: Effects) -> list[EffectRecorded]:
    facts = [record.fact for record in await effects.log.run("r1")]
    return [fact for fact in facts if isinstance(fact, EffectRecorded)]


async def ask(effects: Effects, server: Server, request: ModelRequest = REQUEST) -> Any:
    async with Models(ModelSettings.load(base_url=server.base_url, api_key="k", name="m")) as models:
        return await asked(effects, "design", request, models, grant=GRANT)


async def test_a_recorded_answer_is_never_asked_for_again(effects: Effects) -> None:
    async with scripted(Says("a word", usage=(7, 3))) as server:
        first = await ask(effects, server)
        again = await ask(effects, server)
    (fact,) = await recorded(effects)

    assert first == again
    assert 1 == len(server.calls)
    assert (REQUEST.digest, 10) == (fact.request, fact.cost.tokens)
    assert first.usd == fact.cost.usd


async def test_a_replay_needs_no_model(effects: Effects) -> None:
    async with scripted(Says("a word")) as server:
        first = await ask(effects, server)
    assert first == await asked(effects, "design", REQUEST, None, grant=GRANT)
    with pytest.raises(Refused, match="EVOLVENT_MODEL_API_KEY"):
        await asked(effects, "other", REQUEST, None, grant=GRANT)


async def test_an_unusable_answer_is_recorded_and_paid_for(effects: Effects) -> None:
    async with scripted(Refuses()) as server:
        assert "refused" == (await ask(effects, server)).outcome
        assert "refused" == (await ask(effects, server)).outcome
    assert 1 == len(server.calls)
    assert (await recorded(effects))[0].cost.tokens > 0


async def test_a_passing_fault_is_not_recorded_and_asked_again(effects: Effects) -> None:
    async with scripted(Fails(503), Says("a word")) as server:
        with pytest.raises(Transient):
            await ask(effects, server)
        assert "a word" == (await ask(effects, server)).text
    assert 1 == len(await recorded(effects))


async def test_a_lasting_fault_is_recorded_and_not_asked_again(effects: Effects) -> None:
    async with scripted(Fails(401)) as server:
        for error in (Permanent, EffectFailed):
            with pytest.raises(error, match="EVOLVENT_MODEL_API_KEY"):
                await ask(effects, server)
    assert 1 == len(server.calls)


async def test_another_request_under_the_same_name_is_changed_code(effects: Effects) -> None:
    async with scripted(Says("a word")) as server:
        await ask(effects, server)
        with pytest.raises(CodeChanged):
            await ask(effects, server, REQUEST.model_copy(update={"seed": 1}))
    assert 1 == len(server.calls)
