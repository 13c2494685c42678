"""Real parts for every test: a private nats-server on a free port with its own store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evolvent.embedded import Server, embedded
from evolvent.log import Log
from evolvent.platform import Platform, open_platform
from evolvent.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", ack_wait=1.0, retry_delay=0.05)


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    async with embedded(settings) as running:
        yield running


@pytest.fixture
async def platform(server: Server, settings: Settings) -> AsyncIterator[Platform]:
    async with open_platform(settings, "test") as opened:
        yield opened


@pytest.fixture
def log(platform: Platform) -> Log:
    return platform.log("test")
