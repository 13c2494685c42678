"""A model's answer on the log: asked once, paid once, replayed without a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from evolvent.errors import CodeChanged, GrantExceeded, Transient, Unrecorded
from evolvent.journal import EffectFailed, Effects
from evolvent.models import Message, ModelAnswer, ModelRequest, PromptRef
from evolvent.models.access import Access
from evolvent.models.journaled import Asker
from evolvent.models.purse import Allowance
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


@pytest.fixture
def access(platform: Platform) -> Access:
    return Access(platform, "researcher", ())


def asker(effects: Effects, access: Access, **options: Any) -> Asker:
    grant = GRANT.model_copy(update=options.pop("grant", {}))
    return Asker(effects, access, Allowance(run="r1", round="0", grant=grant), **options)


@contextmanager
def endpoint(server: Server) -> Iterator[None]:
    """Have the process settings name the server, as a role finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOLVENT_MODEL_BASE_URL", server.base_url)
        patch.setenv("EVOLVENT_MODEL_API_KEY", "k")
        yield


async def ask(
    effects: Effects, access: Access, server: Server, request: ModelRequest = REQUEST, **options: Any
) -> ModelAnswer:
    with endpoint(server):
        async with access.running():
            return await asker(effects, access, **options).ask("design", request)


async def test_a_recorded_answer_is_never_asked_for_again(effects: Effects, access: Access) -> None:
    async with scripted(Says("a word", usage=(7, 3))) as server:
        first = await ask(effects, access, server)
        again = await ask(effects, access, server)
    (fact,) = await recorded(effects)

    assert first == again
    assert 1 == len(server.calls)
    assert (REQUEST.digest, 10) == (fact.request, fact.cost.tokens)
    assert first.usd == fact.cost.usd


async def test_a_replay_needs_no_model(effects: Effects, access: Access) -> None:
    async with scripted(Says("a word")) as server:
        first = await ask(effects, access, server)
    replayed = replace(effects, live=False)

    assert first == await asker(replayed, access).ask("design", REQUEST)
    with pytest.raises(Unrecorded):
        await asker(replayed, access).ask("other", REQUEST)


async def test_a_role_without_a_key_says_what_to_set(
    effects: Effects, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVOLVENT_MODEL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with access.running():
        with pytest.raises(EffectFailed, match="EVOLVENT_MODEL_API_KEY"):
            await asker(effects, access).ask("design", REQUEST)


async def test_no_model_is_asked_by_a_role_that_does_not_run(effects: Effects, access: Access) -> None:
    with pytest.raises(EffectFailed, match="only while it runs"):
        await asker(effects, access).ask("design", REQUEST)


async def test_an_unusable_answer_is_recorded_and_paid_for(effects: Effects, access: Access) -> None:
    async with scripted(Refuses()) as server:
        assert "refused" == (await ask(effects, access, server)).outcome
        assert "refused" == (await ask(effects, access, server)).outcome
    assert 1 == len(server.calls)
    assert (await recorded(effects))[0].cost.tokens > 0


async def test_a_passing_fault_is_not_recorded_and_asked_again(effects: Effects, access: Access) -> None:
    async with scripted(Fails(503), Says("a word")) as server:
        with pytest.raises(Transient):
            await ask(effects, access, server)
        assert "a word" == (await ask(effects, access, server)).text
    assert 1 == len(await recorded(effects))


async def test_a_passing_fault_lasts_for_a_handler_that_can_do_without_the_answer(
    effects: Effects, access: Access
) -> None:
    async with scripted(Fails(503), Fails(503)) as server:
        with pytest.raises(Transient):
            await ask(effects, access, server, tries=2)
        with pytest.raises(EffectFailed, match="503"):
            await ask(replace(effects, delivery=2), access, server, tries=2)
    assert ["failed"] == [fact.outcome for fact in await recorded(effects)]


async def test_a_lasting_fault_is_recorded_and_not_asked_again(effects: Effects, access: Access) -> None:
    async with scripted(Fails(401)) as server:
        for _ in range(2):
            with pytest.raises(EffectFailed, match="EVOLVENT_MODEL_API_KEY") as raised:
                await ask(effects, access, server)
            assert "permanent" == raised.value.reason
    assert 1 == len(server.calls)


async def test_a_spent_grant_keeps_its_name_live_and_in_replay(effects: Effects, access: Access) -> None:
    async with scripted(Says("a word")) as server:
        for _ in range(2):
            with pytest.raises(EffectFailed) as raised:
                await ask(effects, access, server, grant={"tokens": 50})
            assert GrantExceeded.reason == raised.value.reason
    with pytest.raises(EffectFailed) as raised:
        await asker(replace(effects, live=False), access).ask("design", REQUEST)
    assert GrantExceeded.reason == raised.value.reason
    assert not server.calls


async def test_another_request_under_the_same_name_is_changed_code(effects: Effects, access: Access) -> None:
    async with scripted(Says("a word")) as server:
        await ask(effects, access, server)
        with pytest.raises(CodeChanged):
            await ask(effects, access, server, REQUEST.model_copy(update={"seed": 1}))
    assert 1 == len(server.calls)
