"""One list, then one watch for all objects of a kind: no polling, whatever their number."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import structlog

from evolvent.errors import Transient
from evolvent_engineer.kubernetes.client import Client, Event, Expired, Kind
from evolvent_engineer.kubernetes.manifests import Manifest

log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 0.05
"""Between two watches, so that a server that ends each at once is not flooded."""
_FAILURES = 8
"""In a row, after which the list is asked for anew."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list is about to be asked for: what is created from now on may be missing from it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The whole truth at one moment: whatever is not in it does not exist."""

    items: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """An object was added, changed or removed."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    item: Manifest


Change = Listing | Listed | Seen


class Watch:
    """Follows one kind of object of one namespace for ever.

    A watch that ends is resumed from its last version; one whose version was compacted (410) starts with a new
    list. `DELETED` may be missed only across a list, which is why a list replaces everything known.
    """

    def __init__(self, client: Client, kind: Kind, selector: str) -> None:
        self._client = client
        self._kind = kind
        self._selector = selector
        self._version: str | None = None

    async def changes(self) -> AsyncIterator[Change]:
        """Yield `Listing` and `Listed` first, and then every change once and in order.

        Raises:
            Permanent: the server refuses us; nothing more can be learnt.
        """
        failures = 0
        while True:
            try:
                if self._version is None:
                    yield Listing()
                    items, self._version = await self._client.list(self._kind, self._selector)
                    yield Listed(tuple(items))
                async for event in self._client.watch(self._kind, self._selector, self._version):
                    self._version, failures = event.version, 0
                    if change := _change(event):
                        yield change
            except Expired:
                self._version = None
            except Transient as error:
                log.warning("the watch is taken up again", kind=self._kind, error=str(error), delay=error.delay)
                failures += 1
                if failures % _FAILURES == 0:  # a restored server may never come to the version that we have seen
                    self._version = None
                await asyncio.sleep(error.delay)
            await asyncio.sleep(_PAUSE_SECONDS)


def _change(event: Event) -> Seen | None:
    """Bookmarks only carry a version."""
    match event.type:
        case "ADDED" | "MODIFIED" | "DELETED" as kind:
            return Seen(kind, event.object)
        case _:
            return None
