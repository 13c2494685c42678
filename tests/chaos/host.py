"""Host every role as a process of its own until SIGTERM: what `evolvent run --processes` does, for many runs."""

import asyncio

from evolvent import telemetry
from evolvent.hosting import hosting
from evolvent.serve import stop_on_signals
from evolvent.settings import Settings


async def _main() -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    settings = Settings()
    telemetry.to_file(settings.home / "logs" / "host.jsonl")
    async with hosting(settings, processes=True) as roles:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({roles, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if roles.done():
            roles.result()


if __name__ == "__main__":
    asyncio.run(_main())
