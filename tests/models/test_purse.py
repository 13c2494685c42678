"""A round's purse and an endpoint's rate limits, kept together by replicas over a real server."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.errors import BrokenOff, GrantExceeded, Permanent, Transient
from evolvent.models.limiter import Levels, SharedLimiter, _taken
from evolvent.models.purse import Allowance, Purse, Purses
from evolvent.platform import Platform, open_platform
from evolvent.settings import Settings
from evolvent.shared import STREAM, Shared
from evolvent_schemas import subjects
from evolvent_schemas.values import Cost, Grant

MOST = Cost(tokens=30)


def allowance(tokens: int | None = 100, *, usd: float | None = None, spent: int = 0) -> Allowance:
    grant = Grant(attempts=1, tokens=tokens, usd=usd, compute_seconds=0)
    return Allowance(run="r1", round="0", grant=grant, spent=Cost(tokens=spent))


@pytest.fixture
def purses(platform: Platform) -> Purses:
    return Purses(Shared(platform.wire))


async def purse(platform: Platform) -> Purse:
    stored = await platform.wire.last(STREAM, subjects.purse("r1", "0"))
    assert stored is not None
    return Purse.model_validate_json(stored.data)


async def test_calls_in_flight_never_hold_more_than_the_grant(server: object, settings: Settings) -> None:
    """Two replicas, twelve calls at once: three fit."""
    release, made = asyncio.Event(), 0

    async def call(one: Purses) -> None:
        nonlocal made
        async with one.held(allowance(), MOST):
            made += 1
            await release.wait()

    async with open_platform(settings, "a") as a, open_platform(settings, "b") as b:
        calls = [asyncio.create_task(call(Purses(Shared(each.wire)))) for each in (a, b) for _ in range(6)]
        waiting = set(calls)
        async with asyncio.timeout(20):
            while len(waiting) > 3:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        release.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)

    assert 3 == made
    assert 9 == sum(isinstance(error, GrantExceeded) for error in ended)


async def test_a_call_settles_for_what_it_cost(purses: Purses, platform: Platform) -> None:
    async with purses.held(allowance(), MOST) as held:
        held.cost = Cost(tokens=12)
    assert (12, {}) == ((await purse(platform)).spent.tokens, (await purse(platform)).held)


@pytest.mark.parametrize("error", [Transient("429"), Permanent("401")])
async def test_a_call_that_was_refused_puts_everything_back(
    purses: Purses, platform: Platform, error: Exception
) -> None:
    with pytest.raises(type(error)):
        async with purses.held(allowance(), MOST):
            raise error
    assert 0 == (await purse(platform)).total.tokens


@pytest.mark.parametrize("error", [BrokenOff("cut"), asyncio.CancelledError()])
async def test_a_call_that_may_have_been_paid_for_keeps_what_it_held(
    purses: Purses, platform: Platform, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        async with purses.held(allowance(), MOST):
            raise error
    assert 30 == (await purse(platform)).total.tokens


async def test_a_purse_that_was_lost_begins_with_what_the_log_says(purses: Purses) -> None:
    with pytest.raises(GrantExceeded):
        async with purses.held(allowance(spent=71), MOST):
            pass


async def test_an_unlimited_round_needs_no_purse(purses: Purses, platform: Platform) -> None:
    async with purses.held(allowance(None), MOST):
        pass
    assert await platform.wire.last(STREAM, subjects.purse("r1", "0")) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40), st.sampled_from(["hold", "settle"])), max_size=30))
def test_no_order_of_holds_and_settlements_passes_the_grant(steps: list[tuple[int, int, str]]) -> None:
    state = Purse()
    for name, tokens, what in steps:
        if what == "hold":
            try:
                state = state.hold(str(name), Cost(tokens=tokens), allowance())
            except GrantExceeded:
                continue
        else:
            most = state.held.get(str(name), Cost())
            once = state.settle(str(name), Cost(tokens=most.tokens // 2))
            assert once == once.settle(str(name), Cost(tokens=99))
            state = once
        assert state.total.tokens <= 100


async def test_replicas_share_a_rate(server: object, settings: Settings) -> None:
    """600 requests a minute, all of them taken: the next ten calls of two replicas come 0.1 s apart."""
    async with open_platform(settings, "a") as a, open_platform(settings, "b") as b:
        limiters = [SharedLimiter(Shared(each.wire), "http://x/v1", 600.0, None) for each in (a, b)]
        await asyncio.gather(*(limiters[n % 2].slot("m", 1) for n in range(20)))
        await limiters[0].shared.change(limiter_subject("m"), lambda _: (empty_level(), None))
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(limiters[n % 2].slot("m", 1) for n in range(10)))
        took = asyncio.get_running_loop().time() - began
    assert 0.8 < took


def limiter_subject(model: str) -> str:
    from evolvent_schemas.values import canonical, sha256

    return subjects.limit(sha256(canonical(["http://x/v1", model])))


def empty_level() -> bytes:
    from evolvent import clock

    return Levels(at=clock.now().timestamp(), levels={"requests": 0.0}).model_dump_json().encode()


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), min_size=1, max_size=40))
def test_no_minute_starts_more_than_the_rate_and_what_was_saved_up(calls: list[tuple[float, int]]) -> None:
    rate, now, state = 100.0, 1000.0, Levels(at=1000.0, levels={})
    starts: list[tuple[float, int]] = []
    for pause, amount in calls:
        now += pause
        state, wait = _taken(state, {"tokens": (float(amount), rate)}, now)
        starts.append((now + wait, amount))
    for begin, _ in starts:
        within = sum(amount for start, amount in starts if begin <= start < begin + 60)
        assert within <= 2 * rate + 1e-6


def test_a_clock_that_goes_back_refills_nothing() -> None:
    before = Levels(at=1000.0, levels={"requests": 0.0})
    after, wait = _taken(before, {"requests": (1.0, 60.0)}, 900.0)
    assert (1000.0, 1.0) == (after.at, wait)
