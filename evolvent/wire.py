"""The connection to NATS, and the few JetStream calls that nats-py gets wrong or does not have.

Known defects of nats-py 2.16 that this module exists to avoid: `publish_async` never resolves when the server rejects
(nats.py#985), `fetch` stalls and hides a deleted consumer (#986, #504), ordered consumers lose messages when the
client queue overflows, `connect` with endless reconnects never returns without a server.
"""

import asyncio
import base64
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from evolvent.clock import jitter, monotonic
from evolvent.errors import Forbidden, Permanent, Rejected, StreamFull, Unauthorized, Unreachable

NANOSECONDS = 1_000_000_000
PUBLISH_WINDOW = 256
"""Publishes in flight per connection; bigger windows were slower everywhere they were measured."""

SPEAK_UP = 5.0
"""Seconds of failed tries after which a waiting publish says so in the service's log, and again as often."""

PROVISION = "`evolvent doctor --repair`, on a bus with users `evolvent deploy provision` as the bus user `provisioner`"
"""What makes streams and consumers, or brings them to what they should be."""

_REFUSED = re.compile(r'permissions violation for publish to "([^"]+)"')
logger = structlog.get_logger()


class Code:
    """JetStream error codes by name (nats-server `server/errors.json`)."""

    NO_RESPONDERS = 503
    UNAVAILABLE = 10008
    CONSUMER_NOT_FOUND = 10014
    STREAM_NOT_FOUND = 10059
    WRONG_LAST_SEQUENCE = 10071
    INSUFFICIENT_STORAGE = 10077
    MESSAGE_NOT_FOUND = 10037
    DUPLICATE_IN_PROCESS = 10158
    WRITE_IN_FLIGHT = 10164
    UNKNOWN_OUTCOME = frozenset({NO_RESPONDERS, UNAVAILABLE, DUPLICATE_IN_PROCESS, WRITE_IN_FLIGHT})
    """The message may or may not be stored; trying again with the same id finds out."""


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message as read back from the leader."""

    subject: str
    sequence: int
    headers: dict[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the reply subject of a delivered message says (nats-server `server/consumer.go`, ackReplyTemplate)."""

    delivered: int
    stream_sequence: int
    consumer_sequence: int
    pending: int

    @classmethod
    def of(cls, reply: str) -> Self:
        """Read `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<ns>.<pending>`.

        With a domain and account hash (v2) two more tokens stand after `$JS.ACK`.
        """
        tokens = reply.split(".")
        shift = 0 if len(tokens) == 9 else 2
        return cls(int(tokens[4 + shift]), int(tokens[5 + shift]), int(tokens[6 + shift]), int(tokens[8 + shift]))


def status_of(message: Msg) -> tuple[str, str] | None:
    """Tell a status message (no payload of ours) from a delivery: its code and description."""
    headers = message.headers
    if not headers or "Status" not in headers:
        return None
    return headers["Status"], headers.get("Description", "").partition("\n")[0]


@dataclass
class Wire:
    """One connection: publishes with its own ack inbox, JetStream requests, and who to wake after a reconnect."""

    client: Client
    user: str | None = None
    """Who we are to the server; none where it knows no users."""
    _asked: dict[str, tuple[str, asyncio.Future[dict[str, Any]]]] = field(default_factory=dict)
    """Subject and answer of each message that waits for one, by the last token of its reply subject."""
    _reconnected: set[Callable[[], None]] = field(default_factory=set)
    _window: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PUBLISH_WINDOW))
    _inbox: str = ""
    _count: int = 0
    violations: int = 0
    """Permission errors seen; nats-py reports them nowhere else."""

    async def _listen(self) -> None:
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", cb=self._on_answer, pending_msgs_limit=0, pending_bytes_limit=0)

    async def _on_answer(self, message: Msg) -> None:
        _, waiting = self._asked.get(message.subject[len(self._inbox) + 1 :], ("", None))
        if waiting is None or waiting.done():
            return
        if (status := status_of(message)) is not None:
            waiting.set_exception(Rejected(int(status[0]), status[1] or "no stream or no leader; is JetStream on?"))
            return
        reply = json.loads(message.data)
        if "error" in reply:
            waiting.set_exception(_rejected(reply))
        else:
            waiting.set_result(reply)

    async def publish(
        self, subject: str, data: bytes, headers: dict[str, str], *, patience: float = 2.0
    ) -> dict[str, Any]:
        """Publish into a stream and wait for its acknowledgement (`seq`, `duplicate`).

        Raises:
            Rejected: the server said no.
            Forbidden: our user may not publish this subject.
            TimeoutError: no answer within `patience` seconds; whether it is stored is unknown.
        """
        async with self._window:
            return await self._ask(subject, data, headers, patience)

    async def _ask(self, subject: str, data: bytes, headers: dict[str, str] | None, patience: float) -> dict[str, Any]:
        self._count += 1
        token = str(self._count)
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[token] = (subject, waiting)
        try:
            await self.client.publish(subject, data, reply=f"{self._inbox}.{token}", headers=headers)
            async with asyncio.timeout(patience):
                return await waiting
        except nats.errors.Error as error:
            raise _lost(error) from error
        except TimeoutError as error:
            raise TimeoutError(f"{subject} had no answer within {patience:g} s") from error
        finally:
            self._asked.pop(token, None)

    async def store(self, subject: str, data: bytes, headers: dict[str, str]) -> int | None:
        """Publish until the outcome is known: the new sequence, or none when the subject or the id is taken.

        An unknown outcome (no leader, no quorum, no connection, no answer) is tried again with the same id, for ever.

        Raises:
            StreamFull: the stream's limit is reached.
            Unreachable: the connection was closed for good.
            Permanent: it will never be taken: too large, no permission, no such stream, another rule of the server.
        """
        delay, began = 0.02, monotonic()
        while True:
            try:
                reply = await self.publish(subject, data, headers)
                return None if reply.get("duplicate") else int(reply["seq"])
            except TimeoutError as error:
                reason = str(error)
            except Rejected as error:
                if error.code == Code.WRONG_LAST_SEQUENCE:
                    return None
                reason = _retryable(error, subject)
            if monotonic() - began > SPEAK_UP:
                await logger.awarning("log.waiting", subject=subject, reason=reason)
                began = monotonic()
            await asyncio.sleep(jitter(delay))
            delay = min(delay * 2, 1.0)

    async def api(
        self, subject: str, request: dict[str, Any] | None = None, *, patience: float = 5.0
    ) -> dict[str, Any]:
        """Ask the JetStream API.

        Raises:
            Rejected: the server answered with an error.
            Forbidden: our user may not ask this.
            TimeoutError: it did not answer.
            Unreachable: the connection was closed for good.
        """
        body = json.dumps(request).encode() if request is not None else b""
        return await self._ask(f"$JS.API.{subject}", body, None, patience)

    async def last(self, stream: str, subject: str) -> Message | None:
        """Read the last message on a subject from the leader, never from a replica, which may lag."""
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except Rejected as error:
            if error.code == Code.MESSAGE_NOT_FOUND:
                return None
            raise
        return _stored(answer["message"])

    @contextlib.contextmanager
    def on_reconnect(self, wake: Callable[[], None]) -> Any:
        """Call `wake` after each reconnect for as long as the block lasts."""
        self._reconnected.add(wake)
        try:
            yield
        finally:
            self._reconnected.discard(wake)

    async def _wake(self) -> None:
        for wake in tuple(self._reconnected):
            wake()

    def _note(self, error: str) -> None:
        """Count a permission error, and end what waits for an answer to a message that the server did not take.

        The server answers nothing to such a message, and nats-py tells its subject in lower case.
        """
        self.violations += "permissions violation" in error.lower()
        if (refused := _REFUSED.search(error.lower())) is None:
            return
        for subject, waiting in self._asked.values():
            if subject.lower() == refused[1] and not waiting.done():
                waiting.set_exception(_forbidden(subject, self.user))


def _forbidden(subject: str, user: str | None) -> Forbidden:
    who = f"the bus user {user!r}" if user else "this connection"
    return Forbidden(
        f"{who} may not publish to {subject}; set EVOLVENT_NATS_USER and EVOLVENT_NATS_PASSWORD to one that may: "
        "`provisioner` makes streams and consumers, `user` reads and issues directives, a role publishes its own facts"
    )


def _lost(error: nats.errors.Error) -> Exception:
    """Name what nats-py raises when a message cannot be sent: a time-out while it reconnects, and else the end."""
    if isinstance(error, nats.errors.ConnectionClosedError):
        return Unreachable("the connection to NATS was closed for good, see the service's log for the reason")
    if isinstance(error, nats.errors.MaxPayloadError):
        return Permanent("the message is larger than the server takes")
    return TimeoutError(str(error))


def _retryable(error: Rejected, subject: str) -> str:
    if error.code == Code.INSUFFICIENT_STORAGE:
        raise StreamFull(
            f"the stream is full and {subject} waits; raise EVOLVENT_LOG_MAX_BYTES and run {PROVISION}; "
            "nothing is lost meanwhile"
        ) from error
    if error.code not in Code.UNKNOWN_OUTCOME:
        raise Permanent(f"{subject} is refused: {error}") from error
    return str(error)


def _rejected(reply: dict[str, Any]) -> Rejected:
    error = reply["error"]
    return Rejected(error.get("err_code", error.get("code", 0)), error.get("description", ""))


def _stored(message: dict[str, Any]) -> Message:
    raw = base64.b64decode(message.get("hdrs", "")).decode()
    pairs = (line.split(":", 1) for line in raw.split("\r\n")[1:] if ":" in line)
    headers = {name.strip(): value.strip() for name, value in pairs}
    return Message(message["subject"], message["seq"], headers, base64.b64decode(message.get("data", "")))


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    ca: Path | None = None,
    name: str = "evolvent",
    patience: float = 10,
) -> AsyncIterator[Wire]:
    """Open a connection that reconnects for ever once it was up.

    A user hears its own inbox only, `_INBOX.<user>.>`.

    Raises:
        Unreachable: no server answered within `patience` seconds.
        Unauthorized: one did, and does not let us in.
    """
    client = Client()
    wire = Wire(client, user or urlsplit(url).username)
    said: dict[str, None] = {}

    async def failed(error: Exception) -> None:
        wire._note(str(error))  # noqa: SLF001
        if str(error):
            said[str(error)] = None
            await logger.awarning("nats.error", error=str(error))

    try:
        async with asyncio.timeout(patience):
            await client.connect(
                url,
                token=token,
                user=user,
                password=password,
                tls=_trusting(ca) if ca else None,
                inbox_prefix=f"_INBOX.{user}" if user else "_INBOX",
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds; a float is what it sleeps
                ping_interval=5,
                error_cb=failed,
                reconnected_cb=wire._wake,  # noqa: SLF001 - its own constructor function
            )
    except (TimeoutError, OSError, nats.errors.Error) as error:
        raise _unreached(url, "; ".join(said) or str(error) or "no answer") from error
    try:
        await wire._listen()  # noqa: SLF001
        yield wire
    finally:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await client.close()


def _unreached(url: str, reason: str) -> Unreachable:
    if "authorization violation" in reason.lower():
        return Unauthorized(
            f"the NATS server at {url} does not let us in: {reason}; correct EVOLVENT_NATS_USER and "
            "EVOLVENT_NATS_PASSWORD, or EVOLVENT_NATS_TOKEN where it asks for a token"
        )
    return Unreachable(
        f"no NATS server at {url}: {reason}; start it (`evolvent run` starts one on this machine), or correct "
        "EVOLVENT_NATS_URL"
    )


def _trusting(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise Unreachable(
            f"the certificate authority {ca} cannot be read: {error}; correct EVOLVENT_NATS_CA"
        ) from error


def pull_request(batch: int, *, heartbeat: float, expires: float = 30.0) -> bytes:
    """Encode a pull; both times in seconds."""
    body = {
        "batch": batch,
        "expires": int(expires * NANOSECONDS),
        "idle_heartbeat": int(heartbeat * NANOSECONDS),
    }
    return json.dumps(body).encode()
