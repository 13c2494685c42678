"""Read the log in order, gap-checked, to an end or for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from evolvent.clock import jitter
from evolvent.errors import Rejected
from evolvent.wire import NANOSECONDS, Code, Delivery, Wire, pull_request, status_of


async def follow(
    wire: Wire,
    stream: str,
    filters: list[str],
    *,
    start: int = 1,
    until: int | None = None,
    batch: int = 500,
    silence: float = 5.0,
) -> AsyncIterator[tuple[Msg, Delivery]]:
    """Yield the messages in order from sequence `start`, without a gap: those up to `until`, or for ever without it.

    An ephemeral pull consumer, recreated after the last message seen whenever its own sequence jumps, it falls silent
    (two and a half heartbeats) or it is gone.
    """
    following = start
    while True:
        name = "tail-" + wire.client.new_inbox().rsplit(".", 1)[1]
        try:
            consumer = await _ephemeral(wire, stream, name, filters, following)
        except (Rejected, TimeoutError) as error:
            if isinstance(error, Rejected) and error.code not in Code.UNKNOWN_OUTCOME:
                raise
            await asyncio.sleep(jitter(0.3))
            continue
        if until is not None and consumer["num_pending"] == 0:
            return
        async for message, delivery in _pull(wire, stream, name, batch=batch, silence=silence):
            following = delivery.stream_sequence + 1
            if until is not None and delivery.stream_sequence > until:
                return
            yield message, delivery
            if until is not None and (delivery.pending == 0 or following > until):
                return


async def _ephemeral(wire: Wire, stream: str, name: str, filters: list[str], start: int) -> dict[str, Any]:
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": max(start, 1),
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 30 * NANOSECONDS,
        "filter_subjects": filters,
    }
    request = {"stream_name": stream, "config": config}
    # A request in flight when the server dies is never answered; creation takes milliseconds, so little is waited for.
    return await wire.api(f"CONSUMER.CREATE.{stream}.{name}", request, patience=2.0)


async def _pull(
    wire: Wire, stream: str, name: str, *, batch: int, silence: float
) -> AsyncIterator[tuple[Msg, Delivery]]:
    """Yield until the consumer must be made anew."""
    inbox = wire.client.new_inbox()
    queue: asyncio.Queue[Msg | None] = asyncio.Queue()

    async def enqueue(message: Msg) -> None:
        queue.put_nowait(message)

    subscription = await wire.client.subscribe(inbox, cb=enqueue, pending_msgs_limit=0, pending_bytes_limit=0)
    request = pull_request(batch, heartbeat=silence / 2.5)
    left = seen = 0
    try:
        with wire.on_reconnect(lambda: queue.put_nowait(None)):
            while True:
                if left <= batch // 2:
                    await wire.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", request, reply=inbox)
                    left += batch
                message = await _next(queue, silence)
                if message is None:
                    return
                if (status := status_of(message)) is not None:
                    if status[0] == "100":
                        continue
                    if status[0] != "408":
                        return
                    left = 0
                    continue
                delivery = Delivery.of(message.reply)
                left -= 1
                seen += 1
                if delivery.consumer_sequence != seen:
                    return
                yield message, delivery
    except nats.errors.Error:
        return  # a lost connection; making the consumer anew waits for the next one
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
            await wire.client.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"")


async def _next(queue: asyncio.Queue[Msg | None], silence: float) -> Msg | None:
    if not queue.empty():
        return queue.get_nowait()
    try:
        async with asyncio.timeout(silence):
            return await queue.get()
    except TimeoutError:
        return None
