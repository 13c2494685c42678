"""One warm backend for each sandbox tier, shared by the tests of a module."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from evolvent_engineer import tiers
from evolvent_schemas.values import SandboxTier
from tests.engineer.laboratory import Laboratory


async def _opened(tier: SandboxTier, factory: pytest.TempPathFactory) -> AsyncIterator[Laboratory]:
    if obstacle := await asyncio.to_thread(tiers.obstacle, tier):
        pytest.skip(f"{tier} is not to be had here: {obstacle}")
    laboratory = Laboratory(factory.mktemp(tier.lower()), tier)
    await laboratory.backend.start()
    try:
        yield laboratory
    finally:
        await laboratory.backend.close()
    assert not laboratory.work.exists()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["T1", "T2", "T3"])
async def laboratory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Laboratory]:
    async for each in _opened(request.param, tmp_path_factory):
        yield each


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def best(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Laboratory]:
    """The best tier of this machine."""
    async for each in _opened((await asyncio.to_thread(tiers.probe)).tier, tmp_path_factory):
        yield each
