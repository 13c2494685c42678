"""What nats-py and JetStream do wrong or surprisingly, held against a real server."""

import asyncio
import time
from pathlib import Path
from uuid import uuid4

import pytest

from evolvent.embedded import Server
from evolvent.errors import Forbidden, Permanent, Rejected, StreamFull, Transient, Unreachable
from evolvent.log import STREAM, Log
from evolvent.platform import Platform, open_platform
from evolvent.provision import LARGEST_FACT, provision
from evolvent.settings import Settings
from evolvent.wire import Code, connect
from evolvent_schemas import ROOT, envelope, fact_id
from tests.platform.facts import closed, expired, sampled
from tests.platform.servers import Node, free_ports


def _headers(id_: str, **more: str) -> dict[str, str]:
    return {envelope.MSG_ID: id_, envelope.EXPECTED_STREAM: STREAM, envelope.EXPECTED_SUBJECT_SEQUENCE: "0", **more}


async def test_a_rejected_publish_resolves_at_once(platform: Platform) -> None:
    await platform.wire.publish("evo.r1.round.closed.0", b"{}", _headers("a"))
    began = time.monotonic()
    results = await asyncio.gather(
        *(platform.wire.publish("evo.r1.round.closed.0", b"{}", _headers(f"b{n}")) for n in range(50)),
        return_exceptions=True,
    )

    assert {Code.WRONG_LAST_SEQUENCE} == {error.code for error in results if isinstance(error, Rejected)}
    assert 50 == len(results)
    assert time.monotonic() - began < 1.5


async def test_no_stream_is_an_unknown_outcome_and_says_so(platform: Platform) -> None:
    with pytest.raises(Rejected, match="no stream or no leader") as caught:
        await platform.wire.publish("nobody.listens", b"", {})

    assert caught.value.code in Code.UNKNOWN_OUTCOME


async def test_a_fact_for_another_stream_is_refused_for_good(platform: Platform) -> None:
    with pytest.raises(Permanent, match="expected stream"):
        await platform.wire.store("blob.x.0", b"", _headers("a"))


@pytest.mark.parametrize("size", [LARGEST_FACT + 1, 2 << 20])
async def test_too_large_a_fact_is_a_permanent_error(log: Log, size: int) -> None:
    """Once refused by the stream's limit, once by the server's own."""
    fact = sampled().model_copy(update={"sampler": "x" * size})

    with pytest.raises(Permanent):
        await log.append(fact)
    assert [] == await log.run("r1")


async def test_an_append_whose_acknowledgement_was_lost_is_recognised_as_our_own(log: Log, platform: Platform) -> None:
    """On one node the expected sequence is checked before the id: the retry is rejected although it is stored."""
    stored = await log.append(sampled(), cause=ROOT)
    headers = _headers(str(stored.id))
    with pytest.raises(Rejected) as caught:
        await platform.wire.publish(sampled().subject, sampled().body(), headers)
    again = await log.append(sampled(), cause=ROOT)

    assert Code.WRONG_LAST_SEQUENCE == caught.value.code
    assert (stored.id, stored.sequence) == (again.id, again.sequence)


async def test_the_same_id_on_another_subject_is_not_taken_for_stored(log: Log, platform: Platform) -> None:
    """JetStream answers it as a duplicate and stores nothing."""
    cause, fact = uuid4(), expired()
    id_ = str(fact_id(cause, fact.subject))
    await platform.wire.publish("evo.r1.round.expired.99", b"{}", _headers(id_))

    with pytest.raises(Transient, match="is empty"):
        await log.append(fact, cause=cause)
    assert await log.read(fact.subject) is None


async def test_appends_in_flight_while_the_server_is_killed_are_stored_once_each(log: Log, server: Server) -> None:
    assert server.process is not None
    await log.append(sampled("1000"))
    appending = [asyncio.create_task(log.append(sampled(str(n)), cause=uuid4())) for n in range(200)]
    await asyncio.sleep(0.01)
    server.process.kill()
    async with asyncio.timeout(30):
        records = await asyncio.gather(*appending)
    found = await log.run("r1")

    assert 201 == len(found)
    assert 201 == len({record.fact.subject for record in found})
    assert {record.id for record in records} <= {record.id for record in found}


async def test_more_than_the_send_buffer_holds_waits_for_the_server(log: Log, server: Server) -> None:
    """While it reconnects, nats-py buffers 2 MiB and then refuses to publish."""
    assert server.process is not None
    server.process.kill()
    await asyncio.sleep(0.05)
    big = [sampled(str(n)).model_copy(update={"sampler": "x" * 400_000}) for n in range(12)]
    async with asyncio.timeout(40):
        await asyncio.gather(*(log.append(fact) for fact in big))

    assert 12 == len(await log.run("r1"))


async def test_a_full_log_is_named_and_takes_nothing(settings: Settings, server: Server, platform: Platform) -> None:
    log = platform.log("test")
    await provision(platform.wire, settings.model_copy(update={"log_max_bytes": 50_000}))
    with pytest.raises(StreamFull, match="EVOLVENT_LOG_MAX_BYTES"):
        for n in range(100):
            await log.append(sampled(str(n)).model_copy(update={"sampler": "x" * 2000}))
    kept = len(await log.run("r1"))
    await provision(platform.wire, settings)
    await log.append(sampled("500"))

    assert kept > 10
    assert kept + 1 == len(await log.run("r1"))


async def test_connecting_without_a_server_gives_up_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="evolvent run"):
        async with connect(f"nats://127.0.0.1:{free_ports(1)[0]}", patience=0.5):
            pass

    assert time.monotonic() - began < 2.0


async def test_a_missing_permission_is_counted_and_ends_the_append_at_once(tmp_path: Path) -> None:
    """The server answers nothing to such a publish; nats-py tells it to the error callback only."""
    node = Node(
        tmp_path / "node",
        free_ports(1)[0],
        """authorization { users: [
          {user: provisioner, password: p}
          {user: analyzer, password: a, permissions: {
            publish: {allow: ["evo.*.candidate.analyzed.>", "$JS.API.>"]}, subscribe: {allow: ["_INBOX.>"]}}}
        ] }""",
    )
    await node.start()
    try:
        address = f"127.0.0.1:{node.port}"
        await _provisioned(Settings(nats_url=f"nats://provisioner:p@{address}"))
        async with open_platform(Settings(nats_url=f"nats://analyzer:a@{address}"), "analyzer") as platform:
            with pytest.raises(Forbidden, match=r"'analyzer' may not publish to evo\.r1\.round\.closed\.0"):
                async with asyncio.timeout(1.0):
                    await platform.log("analyzer").append(closed())
            assert 1 == platform.wire.violations
            assert [] == await platform.log("analyzer").run("r1")
    finally:
        await node.kill()


async def test_a_connection_that_the_server_ends_for_good_is_unreachable_and_not_a_hang(
    settings: Settings, tmp_path: Path
) -> None:
    """nats-py closes itself for ever on most protocol errors, here a message that it should not have sent."""
    node = Node(tmp_path / "node", free_ports(1)[0], "authorization { token: old }\nmax_payload: 4096")
    await node.start()
    try:
        reached = settings.model_copy(update={"nats_url": f"nats://old@127.0.0.1:{node.port}"})
        await _provisioned(reached)
        async with open_platform(reached, "test") as platform:
            await platform.wire.client._send_publish("x", "", b"x" * 8192, 8192, None)
            async with asyncio.timeout(10):
                with pytest.raises(Unreachable, match="closed for good"):
                    await platform.log("test").append(sampled())
    finally:
        await node.kill()


async def _provisioned(settings: Settings) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with open_platform(settings, "provisioner", patience=1.0) as platform:
                    await provision(platform.wire, settings)
                    return
            except Unreachable:
                await asyncio.sleep(0.05)
