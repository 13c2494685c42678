"""On a real server with a user for each role: each may do what it must, and nothing else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from evolvent import acl
from evolvent.artifacts import STREAM as BLOBS
from evolvent.durable import Durable, acknowledge
from evolvent.errors import Forbidden, Rejected, Unauthorized
from evolvent.log import DEAD_STREAM, STREAM
from evolvent.platform import Platform, dial, open_platform
from evolvent.provision import ROLES, drift, provision
from evolvent.wire import Delivery, Wire
from evolvent_schemas import FACTS, Fact
from tests.cluster.servers import Guarded, guarded
from tests.platform.facts import opened, sampled

pytestmark = pytest.mark.asyncio(loop_scope="module")
WRITERS = tuple(user for user in acl.USERS if user != acl.PROVISIONER)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path_factory.mktemp("guarded"), 1) as found:
        yield found


@contextlib.asynccontextmanager
async def acting(bus: Guarded, user: str) -> AsyncIterator[Wire]:
    async with dial(bus.settings(user), user) as wire:
        yield wire


@contextlib.asynccontextmanager
async def platform_of(bus: Guarded, user: str) -> AsyncIterator[Platform]:
    async with open_platform(bus.settings(user), user) as platform:
        yield platform


def subject_of(cls: type[Fact], writer: str) -> str:
    """A subject that a fact of this class could have, as this writer would spell it."""
    keys = [writer if name == "role" else "1" for name in cls.key_fields]
    return ".".join(["evo", f"r{uuid4().hex[:8]}", cls.model_fields["type"].default, *keys])


async def taken(wire: Wire, subject: str) -> bool:
    """Publish and tell whether the server stored it."""
    try:
        await wire.publish(subject, b"{}", {}, patience=5.0)
    except Forbidden:
        return False
    return True


async def refused(wire: Wire, calls: Sequence[tuple[str, dict[str, object] | None]]) -> int:
    """Ask the JetStream API and count the questions that were kept from it."""
    asked = (wire.api(call, request) for call, request in calls)
    return [type(each) for each in await asyncio.gather(*asked, return_exceptions=True)].count(Forbidden)


@pytest.mark.parametrize("user", [*WRITERS, acl.PROVISIONER])
async def test_a_user_publishes_the_facts_it_owns_and_is_refused_every_other(bus: Guarded, user: str) -> None:
    async with acting(bus, user) as wire:
        stored = await asyncio.gather(*(taken(wire, subject_of(cls, user)) for cls in FACTS.values()))
    allowed = {cls.__name__ for cls, done in zip(FACTS.values(), stored, strict=True) if done}
    own = {cls.__name__ for cls in FACTS.values() if cls.publisher == user}
    shared = {cls.__name__ for cls in FACTS.values() if cls.publisher == "*"} if user in ROLES else set()
    assert own | shared == allowed


async def test_every_fact_has_a_user_that_may_publish_it() -> None:
    assert set() == {cls for cls in FACTS.values() if not any(acl.owned(user, cls) for user in acl.USERS)}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_records_effects_and_dead_letters_in_its_own_name_only(bus: Guarded, role: str) -> None:
    other = next(each for each in ROLES if each != role)
    names = [f"evo.r1.effect.recorded.{{}}.{uuid4()}.x", f"evo.r1.handling.failed.{{}}.{uuid4()}", "dead.{}.1"]
    async with acting(bus, role) as wire:
        own = await asyncio.gather(*(taken(wire, name.format(role)) for name in names))
        foreign = await asyncio.gather(*(taken(wire, name.format(other)) for name in names))
    assert ([True] * 3, [False] * 3) == (own, foreign)


@pytest.mark.parametrize("user", WRITERS)
async def test_only_the_provisioner_changes_streams_and_consumers(bus: Guarded, user: str) -> None:
    config = {"name": "analyzer", "durable_name": "analyzer", "ack_policy": "explicit", "filter_subjects": ["evo.x.>"]}
    change = {"stream_name": STREAM, "config": config}
    calls = [
        (f"STREAM.PURGE.{STREAM}", {}),
        (f"STREAM.DELETE.{STREAM}", {}),
        (f"STREAM.UPDATE.{STREAM}", {"name": STREAM, "subjects": ["evo.>"], "max_msgs": 1, "discard": "old"}),
        (f"STREAM.MSG.DELETE.{STREAM}", {"seq": 1}),
        ("STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["other.>"]}),
        (f"CONSUMER.CREATE.{STREAM}.analyzer", change),
        (f"CONSUMER.CREATE.{STREAM}", change),
        (f"CONSUMER.DURABLE.CREATE.{STREAM}.analyzer", change),
        (f"CONSUMER.DELETE.{STREAM}.analyzer", None),
    ]
    async with acting(bus, user) as wire:
        assert len(calls) == await refused(wire, calls)


async def test_the_provisioner_finds_everything_as_it_should_be(bus: Guarded) -> None:
    settings = bus.settings(acl.PROVISIONER)
    async with dial(settings, "provision") as wire:
        assert [] == await provision(wire, settings) + await drift(wire, settings)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_is_woken_by_its_own_consumer_and_pulls_from_no_other(bus: Guarded, role: str) -> None:
    other = next(each for each in ROLES if each != role)
    async with acting(bus, role) as wire:
        inbox = wire.client.new_inbox()
        before = wire.violations
        await wire.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{role}", b'{"batch":1,"no_wait":true}', inbox)
        await wire.client.publish(f"$JS.ACK.{STREAM}.{role}.1.1.1.1.0", b"+ACK")
        await wire.client.flush()
        own = wire.violations - before
        await wire.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{other}", b'{"batch":1,"no_wait":true}', inbox)
        await wire.client.publish(f"$JS.ACK.{STREAM}.{other}.1.1.1.1.0", b"+ACK")
        await wire.client.flush()
        await asyncio.sleep(0.1)
    assert (0, 2) == (own, wire.violations - before)


async def test_two_replicas_of_a_role_tail_the_log_at_once_with_a_consumer_each(bus: Guarded) -> None:
    async with platform_of(bus, "conductor") as conductor:
        await conductor.log("conductor").append(opened("7", "rtails"))
    async with platform_of(bus, "analyzer") as one, platform_of(bus, "analyzer") as two:
        found = await asyncio.gather(*(platform.log("analyzer").run("rtails") for platform in (one, two)))
    assert [["7"], ["7"]] == [[record.fact.round for record in records] for records in found]


async def test_a_role_hears_no_other_roles_answers(bus: Guarded) -> None:
    heard: list[bytes] = []

    async def note(message: object) -> None:
        heard.append(b"")

    async with acting(bus, "analyzer") as spy:
        await spy.client.subscribe("_INBOX.>", cb=note)
        await spy.client.subscribe("_INBOX.conductor.>", cb=note)
        async with platform_of(bus, "conductor") as conductor:
            await conductor.log("conductor").append(opened("8", "rspied"))
        await asyncio.sleep(0.2)
    assert ([], 2) == (heard, spy.violations)


async def test_a_consumer_cannot_be_made_to_write_for_a_role(bus: Guarded) -> None:
    """Messages of a push consumer go where its maker says, with the server's permissions and not the maker's."""
    async with platform_of(bus, "conductor") as conductor:
        await conductor.log("conductor").append(opened("9", "rpushed"))
    async with acting(bus, "analyzer") as wire:
        for number, target in enumerate(("evo.r1.round.opened.5", "dead.engineer.9", f"$JS.API.STREAM.PURGE.{BLOBS}")):
            config = {"name": f"push{number}", "deliver_subject": target, "filter_subjects": ["evo.rpushed.>"]}
            with contextlib.suppress(Rejected):
                await wire.api(f"CONSUMER.CREATE.{STREAM}.push{number}", {"stream_name": STREAM, "config": config})
        await asyncio.sleep(0.3)
        assert await wire.last(STREAM, "evo.r1.round.opened.5") is None
        assert await wire.last(DEAD_STREAM, "dead.engineer.9") is None
        for number in range(3):
            with contextlib.suppress(Rejected):
                await wire.api(f"CONSUMER.DELETE.{STREAM}.push{number}")


async def test_a_tool_reads_and_hears_everything_and_writes_nothing(bus: Guarded) -> None:
    async with platform_of(bus, acl.TOOLS) as tool, platform_of(bus, "researcher") as researcher:
        heard = asyncio.Queue[str]()

        async def note(message: object) -> None:
            heard.put_nowait(message.subject)  # type: ignore[attr-defined]

        await tool.wire.client.subscribe("evo.rtool.>", cb=note)
        await tool.wire.client.flush()
        digest = await researcher.artifacts.put(b"artifact")
        fact = sampled("3", run="rtool")
        await researcher.log("researcher").append(fact)
        assert fact.subject == await asyncio.wait_for(heard.get(), 5)
        assert [fact] == [record.fact for record in await tool.log("tools").run("rtool")]
        assert b"artifact" == await tool.artifacts.get(digest)
        assert [] == await drift(tool.wire, bus.settings(acl.TOOLS))
        refusals = await asyncio.gather(
            *(taken(tool.wire, name) for name in ("blob.aa.0", "dead.tools.1", "limit.a", "purse.r1.1", "evo.r1.x.y"))
        )
    assert [False] * 5 == refusals


async def test_an_experiment_tells_its_result_reads_artifacts_and_nothing_else(bus: Guarded) -> None:
    async with platform_of(bus, "engineer") as engineer:
        digest = await engineer.artifacts.put(b"bundle")
    async with platform_of(bus, acl.EXPERIMENT) as pod:
        told = [await taken(pod.wire, name) for name in ("result.r1.1.0.main.0.0", "progress.r1.1.0.main.0.0")]
        assert [True, True] == told
        assert b"bundle" == await pod.artifacts.get(digest)
        stored = await asyncio.gather(*(taken(pod.wire, name) for name in ("blob.aa.0", "dead.engineer.1", "limit.a")))
        assert [False] * 3 == stored
        names = (f"STREAM.MSG.GET.{STREAM}", "STREAM.MSG.GET.RESULTS", f"STREAM.INFO.{STREAM}")
        assert 3 == await refused(pod.wire, [(name, {"last_by_subj": "evo.>"}) for name in names])


async def test_what_models_share_is_changed_by_the_roles_that_ask_models_only(bus: Guarded) -> None:
    async def change(user: str) -> list[bool]:
        async with acting(bus, user) as wire:
            return await asyncio.gather(*(taken(wire, name) for name in ("limit.a", "purse.r1.1")))

    done = await asyncio.gather(*map(change, WRITERS))
    assert [[user in acl.ASKS_MODELS] * 2 for user in WRITERS] == done


async def test_a_wrong_password_is_named(bus: Guarded) -> None:
    settings = bus.settings("analyzer").model_copy(update={"nats_user": "conductor"})
    with pytest.raises(Unauthorized, match=r"does not let us in: .*Authorization Violation.* EVOLVENT_NATS_PASSWORD"):
        async with dial(settings, "test", patience=1.0):
            pass


async def test_a_stopping_role_hands_back_what_it_cannot_finish(bus: Guarded) -> None:
    """Another replica has it at once, not after the acknowledgement's time is over."""
    subject, begun, again = opened("1", "rhanded").subject, asyncio.Event(), asyncio.Event()

    async def forever(message: Msg, _delivery: Delivery) -> None:
        if message.subject == subject:
            begun.set()
            await asyncio.Event().wait()
        await acknowledge(wire, message)

    async def answer(message: Msg, _delivery: Delivery) -> None:
        if message.subject == subject:
            again.set()
        await acknowledge(wire, message)

    async with platform_of(bus, "conductor") as conductor:
        await conductor.log("conductor").append(opened("1", "rhanded"))
    async with acting(bus, "researcher") as wire:
        first = Durable(wire, STREAM, "researcher", forever, ack_wait=60.0)
        first.patience = 0.2
        running = asyncio.create_task(first.run())
        await asyncio.wait_for(begun.wait(), 10)
        first.stop()
        await asyncio.wait_for(running, 10)
        second = Durable(wire, STREAM, "researcher", answer, ack_wait=60.0)
        working = asyncio.create_task(second.run())
        await asyncio.wait_for(again.wait(), 5)
        second.stop()
        await working
