"""Reading the log: in order and without a gap, however slow the reader and however dead the server."""

import asyncio

from evolvent.embedded import Server
from evolvent.follow import follow
from evolvent.log import STREAM, Log
from evolvent.platform import Platform
from evolvent_schemas import subjects
from tests.platform.facts import sampled

ALL = [subjects.ALL_FACTS]


async def _fill(platform: Platform, first: int, count: int, size: int = 1000) -> None:
    """Append facts without reading them back; only their order matters."""
    sending = [
        platform.wire.publish(sampled(str(n)).subject, b"x" * size, {}, patience=20)
        for n in range(first, first + count)
    ]
    await asyncio.gather(*sending)


async def test_a_slow_reader_misses_nothing(platform: Platform) -> None:
    """An ordered consumer of nats-py lost 2,793 of 3,000 here without a word."""
    await _fill(platform, 0, 3000)
    seen = []
    async for _, delivery in follow(platform.wire, STREAM, ALL, until=3000, batch=200):
        seen.append(delivery.stream_sequence)
        if len(seen) % 300 == 0:
            await asyncio.sleep(0.05)

    assert list(range(1, 3001)) == seen


async def test_a_reader_goes_on_where_it_was_when_the_server_is_killed(platform: Platform, server: Server) -> None:
    assert server.process is not None
    await _fill(platform, 0, 1000)
    seen = []
    appending = None
    async with asyncio.timeout(30):
        async for _, delivery in follow(platform.wire, STREAM, ALL, batch=50, silence=2.0):
            seen.append(delivery.stream_sequence)
            if len(seen) == 120:
                server.process.kill()
                appending = asyncio.create_task(_late(platform))
            if len(seen) == 1001:
                break

    assert appending is not None
    await appending
    assert list(range(1, 1002)) == seen


async def _late(platform: Platform) -> None:
    await platform.log("test").append(sampled("5000"))


async def test_a_reader_whose_consumer_is_deleted_makes_it_anew(platform: Platform) -> None:
    await _fill(platform, 0, 20)
    seen = []
    async with asyncio.timeout(20):
        async for _, delivery in follow(platform.wire, STREAM, ALL, batch=10, silence=1.0):
            seen.append(delivery.stream_sequence)
            if len(seen) == 20:
                names = (await platform.wire.api(f"CONSUMER.NAMES.{STREAM}"))["consumers"]
                for name in names:
                    if name.startswith("tail-"):
                        await platform.wire.api(f"CONSUMER.DELETE.{STREAM}.{name}")
                await _fill(platform, 20, 1)
            if len(seen) == 21:
                break

    assert list(range(1, 22)) == seen


async def test_a_message_that_is_no_fact_is_passed_over(log: Log, platform: Platform) -> None:
    await log.append(sampled("0"))
    await platform.wire.publish("evo.r1.nonsense", b"\xff", {})
    await log.append(sampled("1"))

    assert ["0", "1"] == [record.fact.round for record in await log.run("r1")]


async def test_reading_up_to_an_end_that_holds_nothing_for_us_returns(log: Log) -> None:
    await log.append(sampled("0"))

    assert [] == [record async for record in log.follow(["evo.r2.>"], until=await log.end())]
    assert [] == [record async for record in log.follow(["evo.r1.>"], start=2, until=await log.end())]
