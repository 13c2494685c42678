"""The models of a role: opened at the first call while the role runs, never while its decisions are replayed."""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING

from evolvent.artifacts import Artifacts
from evolvent.errors import Permanent, Refused
from evolvent.models.answers import ModelAnswer, ModelRequest
from evolvent.models.briefing import Briefing, read_briefing
from evolvent.models.limiter import SharedLimiter
from evolvent.models.purse import Allowance, Purses
from evolvent.models.settings import ModelSettings
from evolvent.platform import Platform
from evolvent.shared import Shared

if TYPE_CHECKING:
    from evolvent.models.client import Models


class Access:
    """What a role asks, within the limits that it shares with every other replica."""

    def __init__(self, platform: Platform, role: str, prompts: Collection[str]) -> None:
        self._role, self._prompts = role, prompts
        self._shared = Shared(platform.wire)
        self._stack: contextlib.AsyncExitStack | None = None
        self._models: Models | None = None
        self._briefings: dict[str, Briefing] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Allow calls for as long as the block lasts."""
        try:
            async with contextlib.AsyncExitStack() as self._stack:
                yield
        finally:
            self._stack = self._models = None

    async def briefing(self, artifacts: Artifacts, bundle: str) -> Briefing:
        """Read what the task says to this role's models, from the run's bundle.

        Raises:
            Permanent: one of the task's own prompts is unusable.
        """
        if bundle not in self._briefings:
            self._briefings[bundle] = read_briefing(await artifacts.get(bundle), self._role, self._prompts)
        return self._briefings[bundle]

    async def complete(self, request: ModelRequest, *, allowance: Allowance) -> ModelAnswer:
        """Ask once, if the round's allowance covers the worst case beside all calls in flight.

        Raises:
            GrantExceeded: it does not, or there is no price for a budget in money.
            Transient: try the same request again after `delay` seconds.
            Permanent: the endpoint refuses it for good, or no model is set up here.
        """
        models = await self._opened(request.model)
        most = models.check(request, allowance.left)
        async with Purses(self._shared).held(allowance, most) as held:
            answer = await models.complete(request, grant=allowance.left)
            held.cost = answer.cost
            return answer

    async def _opened(self, model: str) -> "Models":
        """Open the client; the OpenAI library takes most of a second to import, so not before there is a call."""
        client = await asyncio.to_thread(importlib.import_module, "evolvent.models.client")
        if self._stack is None:
            raise Permanent(f"the {self._role} asks models only while it runs")
        if self._models is None:
            try:
                settings = ModelSettings.load()
                settings = settings if settings.names else settings.model_copy(update={"name": model})
                opened: Models = client.Models(settings, limiter=self._limiter(settings))
            except Refused as error:
                raise Permanent(f"the {self._role} cannot ask {model!r}: {error}") from None
            self._models = await self._stack.enter_async_context(opened)
        return self._models

    def _limiter(self, settings: ModelSettings) -> SharedLimiter:
        rates = settings.requests_per_minute, settings.tokens_per_minute
        return SharedLimiter(self._shared, settings.base_url, *rates)
