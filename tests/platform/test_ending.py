"""Ending tasks that do not want to end."""

import asyncio

from evolvent.ending import end


async def test_a_task_that_swallows_its_cancellation_is_ended_all_the_same() -> None:
    """As nats-py does while it flushes; a role once waited for ever for such a task."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(task)

    assert task.cancelled()
    assert swallowed == 3


async def test_the_error_of_an_ended_task_is_nobodys_business() -> None:
    async def failing() -> None:
        raise ValueError("late")

    done, waiting = asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    await end(done, waiting)

    assert isinstance(done.exception(), ValueError)
    assert waiting.cancelled()
