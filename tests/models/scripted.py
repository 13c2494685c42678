"""An OpenAI-compatible server over real HTTP that follows a script: one behaviour for each call, in order.

    async with scripted(Says("hello"), Fails(429, {"Retry-After": "2"})) as server:
        settings = ModelSettings.load(base_url=server.base_url, api_key="k", name="m")
        ...
        assert 2 == len(server.calls)

A step of the script is a behaviour, or a function from the request's body to one (for answers that depend on the
prompt). After the last step every further call fails with 400 `the script is over`, unless `repeat` is set, which
repeats the last step for ever.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

Body = dict[str, Any]


@dataclass
class Call:
    """What one request brought."""

    body: Body
    headers: dict[str, str]
    raw: bytes


class Behaviour(Protocol):
    async def play(self, request: web.Request, body: Body) -> web.StreamResponse: ...


Step = Behaviour | Callable[[Body], Behaviour]


@dataclass
class Server:
    steps: list[Step]
    lacks: Collection[str] = ()
    """Keys of a body that are refused with a 400 naming them; such a call uses up no step."""
    repeat: bool = False
    models: tuple[str, ...] | None = ("m",)
    """What `/models` lists; none for an endpoint without the list."""
    calls: list[Call] = field(default_factory=list)
    base_url: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the last call in flight has ended."""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        self.calls.append(Call(body, dict(request.headers), raw))
        refused = [key for key in self.lacks if key in body]
        if refused:
            return _error(400, f"Unsupported parameter: '{refused[0]}' is not supported with this model.")
        step = self._next()
        self.in_flight += 1
        self.idle.clear()
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            behaviour = step if hasattr(step, "play") else step(body)
            return await behaviour.play(request, body)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()

    def _next(self) -> Step:
        if not self.steps:
            return Fails(400, message="the script is over")
        return self.steps[0] if self.repeat and len(self.steps) == 1 else self.steps.pop(0)

    async def list_models(self, _: web.Request) -> web.Response:
        if self.models is None:
            return _error(404, "no such page")
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})


@contextlib.asynccontextmanager
async def scripted(*steps: Step, **options: Any) -> AsyncIterator[Server]:
    """Run a server on a free port of 127.0.0.1 for as long as the block lasts."""
    server = Server(list(steps), **options)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/v1/models", server.list_models)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.base_url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def _error(status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None) -> web.Response:
    error = {"message": message, "type": "error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def chunk(text: str | None = None, *, model: str = "m", finish: str | None = None, refusal: str | None = None) -> bytes:
    """Write one server-sent event of a stream."""
    delta = {key: value for key, value in (("content", text), ("refusal", refusal)) if value is not None}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _event({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice]})


def _event(body: Body) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


async def _begun(request: web.Request, content_type: str = "text/event-stream") -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    return response


@dataclass
class Says:
    """A whole answer in pieces."""

    text: str
    finish: str = "stop"
    usage: tuple[int, int] | None = (10, 5)
    """Prompt and completion tokens; none for an endpoint that never counts."""
    served_as: str = "m-2026"
    piece: int = 16
    """Characters of a piece."""
    after: float = 0.0
    """Seconds before the answer begins."""
    pause: float = 0.0
    """Seconds before each piece: a slow stream."""

    async def play(self, request: web.Request, body: Body) -> web.StreamResponse:
        await asyncio.sleep(self.after)
        response = await _begun(request)
        for begin in range(0, len(self.text), self.piece):
            await asyncio.sleep(self.pause)
            await response.write(chunk(self.text[begin : begin + self.piece], model=self.served_as))
        await response.write(chunk(model=self.served_as, finish=self.finish))
        if self.usage and body.get("stream_options", {}).get("include_usage"):
            counts = {
                "prompt_tokens": self.usage[0],
                "completion_tokens": self.usage[1],
                "total_tokens": sum(self.usage),
            }
            await response.write(_event({"id": "c", "model": self.served_as, "choices": [], "usage": counts}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def says_json(value: object, **options: Any) -> Says:
    """A structured answer."""
    return Says(json.dumps(value), **options)


@dataclass
class Refuses:
    """A refusal, in the field that is meant for it."""

    text: str = "I cannot help with that."

    async def play(self, request: web.Request, body: Body) -> web.StreamResponse:
        return await Streams(chunk(refusal=self.text), chunk(finish="stop"), b"data: [DONE]\n\n").play(request, body)


@dataclass
class Fails:
    """An HTTP error."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "something went wrong"
    code: str | None = None

    async def play(self, request: web.Request, body: Body) -> web.StreamResponse:
        return _error(self.status, self.message, self.headers, self.code)


@dataclass(init=False)
class Streams:
    """Any bytes as the body of a 200, ended cleanly: garbage, half an answer, an error in mid-stream."""

    parts: tuple[bytes, ...]
    content_type: str

    def __init__(self, *parts: bytes, content_type: str = "text/event-stream") -> None:
        self.parts, self.content_type = parts, content_type

    async def play(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = await _begun(request, self.content_type)
        for part in self.parts:
            await response.write(part)
        await response.write_eof()
        return response


@dataclass
class Cuts:
    """The connection goes in the middle of the answer."""

    text: str = "half of"

    async def play(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = await _begun(request)
        await response.write(chunk(self.text))
        assert request.transport is not None
        request.transport.abort()
        return response


@dataclass
class Hangs:
    """The answer begins and then nothing more comes."""

    text: str = "half of"
    seconds: float = 30.0

    async def play(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = await _begun(request)
        await response.write(chunk(self.text))
        await asyncio.sleep(self.seconds)
        return response
