"""Deliver a durable consumer's messages to a handler, with heartbeats, and say how each was dealt with."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from evolvent.clock import monotonic
from evolvent.errors import ConsumerLost, Rejected, Unreachable
from evolvent.wire import NANOSECONDS, PROVISION, Code, Delivery, Wire, pull_request, status_of

_background: set[asyncio.Future[None]] = set()


@dataclass
class Durable:
    """Deliver a durable consumer's messages to `handle`, at most `concurrency` at once.

    A stopped one finishes what is in work, and hands back at once what comes late or cannot be finished in time.

    One outstanding pull, never larger than the free slots, so that no delivered message waits in a client queue while
    its ack_wait runs. `handle` acknowledges. A deleted consumer ends `run` with `ConsumerLost`.
    """

    wire: Wire
    stream: str
    consumer: str
    handle: Callable[[Msg, Delivery], Awaitable[None]]
    concurrency: int = 8
    ack_wait: float = 10.0
    batch: int | None = None
    """Free slots before more is asked for; not set, half of all, so that a busy consumer is not asked for every one."""
    heartbeat: float = 2.0
    patience: float | None = None
    """Seconds that a stopped one has to finish what is in work; not set, as long as `ack_wait`, and at least 5."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _working: dict[int, tuple[str, float]] = field(default_factory=dict)
    """By stream sequence: where to acknowledge what is in work, and since when it is."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _requested: int = 0
    _heard: float = 0.0
    _inbox: str = ""
    lost: str = ""

    def stop(self) -> None:
        """Take no new message; those in work go on."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped, then wait for what is in work.

        Raises:
            ConsumerLost: the consumer was deleted.
            Unreachable: the connection was closed for good.
        """
        self._inbox = self.wire.client.new_inbox()
        subscription = await self.wire.client.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )
        beating = asyncio.create_task(self._beat())
        try:
            with self.wire.on_reconnect(self._again):
                await self._pull()
                await self._watch()
                await self._drain()
        finally:
            beating.cancel()
            await self._abandon()
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
        if self.lost:
            raise ConsumerLost(
                f"consumer {self.consumer} of stream {self.stream} is gone ({self.lost}); "
                f"make it again with {PROVISION}"
            )

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.heartbeat):
                    await self._stopping.wait()
            if self.wire.client.is_closed:
                raise Unreachable(f"{self.consumer} lost its connection to NATS for good, see the log for the reason")
            if monotonic() - self._heard > 2.5 * self.heartbeat:
                self._again()

    async def _drain(self) -> None:
        if self._tasks:
            patience = max(self.ack_wait, 5.0) if self.patience is None else self.patience
            await asyncio.wait(self._tasks, timeout=patience)

    async def _abandon(self) -> None:
        """Cut off what is still in work; each of them hands its message back."""
        left = tuple(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _again(self) -> None:
        """Forget the outstanding pull: it died with a connection or a server."""
        self._requested = 0
        self._spawn(self._pull())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        _background.add(task)
        task.add_done_callback(_background.discard)

    async def _pull(self) -> None:
        free = self.concurrency - len(self._tasks)
        least = max(1, self.concurrency // 2 if self.batch is None else self.batch)
        if self._stopping.is_set() or self._requested > 0 or free < least:
            return
        self._requested = free
        self._heard = monotonic()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"
        with contextlib.suppress(nats.errors.Error):  # a lost connection is mended by _again
            await self.wire.client.publish(subject, pull_request(free, heartbeat=self.heartbeat), reply=self._inbox)

    async def _on_message(self, message: Msg) -> None:
        self._heard = monotonic()
        status = status_of(message)
        if status is None:
            self._requested -= 1
            if self._stopping.is_set():
                await self._hand_back(message)
                return
            self._begin(message, Delivery.of(message.reply))
        elif status[0] == "100":
            return
        else:
            self._requested = 0
            if "Consumer Deleted" in status[1] or "Consumer is push" in status[1]:
                self.lost = status[1]
                self.stop()
            elif status[0] == "503":
                await self._missing()
        await self._pull()

    def _begin(self, message: Msg, delivery: Delivery) -> None:
        """Start to work on a message, unless that is being done: a restarted server may deliver it once more."""
        if delivery.stream_sequence in self._working:
            return
        self._working[delivery.stream_sequence] = (message.reply, monotonic())
        task = asyncio.create_task(self._work(message, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _missing(self) -> None:
        """Tell a consumer that is gone from a server that is still starting."""
        try:
            await self.wire.api(f"CONSUMER.INFO.{self.stream}.{self.consumer}", patience=1.0)
        except Rejected as error:
            if error.code == Code.CONSUMER_NOT_FOUND:
                self.lost = str(error)
                self.stop()
        except TimeoutError:
            return

    async def _work(self, message: Msg, delivery: Delivery) -> None:
        try:
            await self.handle(message, delivery)
        except asyncio.CancelledError:
            await self._hand_back(message)
            raise
        finally:
            self._working.pop(delivery.stream_sequence, None)
            self._tasks.discard(asyncio.current_task())
            await self._pull()

    async def _hand_back(self, message: Msg) -> None:
        """Let another replica have a message now, and not when its ack_wait is over."""
        with contextlib.suppress(nats.errors.Error):
            await retry_later(self.wire, message, 0.0)

    async def _beat(self) -> None:
        """Tell the server that work in progress is in progress, a third of its patience before that ends."""
        while True:
            await asyncio.sleep(self.ack_wait / 4)
            old = monotonic() - self.ack_wait / 4
            for reply in [reply for reply, since in self._working.values() if since <= old]:
                with contextlib.suppress(nats.errors.Error):
                    await self.wire.client.publish(reply, b"+WPI")


async def acknowledge(wire: Wire, message: Msg) -> None:
    await wire.client.publish(message.reply, b"+ACK")


async def retry_later(wire: Wire, message: Msg, delay: float) -> None:
    """Negative acknowledgement; without a delay JetStream would redeliver at once, whatever the consumer's backoff."""
    body = json.dumps({"delay": int(delay * NANOSECONDS)}).encode()
    await wire.client.publish(message.reply, b"-NAK " + body)


async def terminate(wire: Wire, message: Msg, reason: str) -> None:
    """Never deliver it again, and say why in the server's advisory."""
    await wire.client.publish(message.reply, b"+TERM " + reason.encode()[:200])
