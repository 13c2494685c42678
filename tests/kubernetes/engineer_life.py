"""An engineer in a process of its own, for tests that kill it: launches experiments and prints each."""

import asyncio
import sys

from tests.kubernetes.fake import ADMIN_TOKEN
from tests.kubernetes.orders import backend, order


async def live(url: str, number: int) -> None:
    found = backend(url, ADMIN_TOKEN)
    await found.start()
    for candidate in range(number):
        await found.launch(order(candidate))
        print(candidate, flush=True)
    await asyncio.Event().wait()


asyncio.run(live(sys.argv[1], int(sys.argv[2])))
