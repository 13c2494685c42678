"""End tasks for certain."""

import asyncio
from typing import Any


async def end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks until they are done, whatever their outcome.

    Once is not enough: nats-py 2.16 swallows a cancellation that reaches it while it flushes
    (`nats/aio/client.py`, `_flush_pending`), and whoever waits for such a task waits for ever.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it is nobody's business any more, and asyncio need not warn of it
